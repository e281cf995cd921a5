"""The command line, run in the process of a test."""

import pytest
from typer.testing import CliRunner

from epsilon.cli import app


def epsilon(*arguments: object):
    """Run the command line in this process."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def refused(*arguments: object) -> str:
    """Run what cannot work; return the sentence on stderr."""
    result = epsilon(*arguments)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("epsilon: ")]
    assert "Traceback" not in result.stderr
    return line.removeprefix("epsilon: ")


def narrow_terminal(patched: pytest.MonkeyPatch) -> None:
    """Make standard output a terminal of 80 columns that knows neither colours nor movements."""
    for name, value in (("TTY_COMPATIBLE", "1"), ("COLUMNS", "80"), ("TERM", "dumb")):
        patched.setenv(name, value)
