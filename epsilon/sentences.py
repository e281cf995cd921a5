"""How errors of other libraries are told in one sentence."""

from __future__ import annotations

__all__ = ["first_line"]


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says, or its type where it says nothing."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__
