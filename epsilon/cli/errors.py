"""Errors as one sentence and exit code 2."""

from __future__ import annotations

import sys

import typer
from typer.core import TyperGroup

__all__ = ["SentenceGroup", "sentence"]


def sentence(error: BaseException) -> str:
    """Return what an error says, in one line."""
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__


class SentenceGroup(TyperGroup):
    """The top command: what a user can cause ends in a sentence on stderr and exit code 2, not in a traceback."""

    def invoke(self, ctx: typer.Context) -> object:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise
        except (ValueError, OSError) as error:
            if (ctx.obj or {}).get("traceback"):
                raise
            print(f"epsilon: {sentence(error)}", file=sys.stderr)
            raise typer.Exit(2) from error
