"""Verilator's lint over the generated Verilog: `python -m sim.lint` checks accelerators of several kinds."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from epsilon.config import ArrayConfig
from hdl import verilog
from sim.toolchain import ToolError, find_verilator, run_tool

__all__ = ["CONFIGS", "WAIVERS", "lint"]

#: The warnings that stay, each with its reason.
WAIVERS = Path(verilog.__file__).with_name("waivers.vlt")
#: The smallest, netlists, what the commands use by default, and a build without the optional logic.
CONFIGS = {
    "1x1": ArrayConfig(rows=1, cols=1, accumulator_depth=1),
    "3x2-gates": ArrayConfig(rows=3, cols=2, level="gates"),
    "8x8-words": ArrayConfig(),
    "2x3-plain": ArrayConfig(rows=2, cols=3, fault_injection=False, repair=False),
}


def lint(text: str, *, waivers: Path | None = WAIVERS) -> None:
    """Check Verilog-2001 text of an accelerator with all of Verilator's warnings.

    Raises
    ------
    ToolError
        With the first warnings.
    """
    verilator = find_verilator()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        (work / "accelerator.v").write_text(text)
        waived = [] if waivers is None else [str(waivers)]
        options = ["--lint-only", "-Wall", "--language", "1364-2001", "--top-module", verilog.TOP_MODULE]
        run_tool(
            [str(verilator.program), *options, *waived, "accelerator.v"],
            cwd=work,
            what="Verilator's lint",
            env={"VERILATOR_ROOT": str(verilator.root)},
        )


def main() -> int:
    """Check every configuration; return the exit status."""
    for name, config in CONFIGS.items():
        try:
            lint(verilog.generate(config))
        except ToolError as error:
            print(f"{name}: {error}", file=sys.stderr)
            return 1
        print(f"{name}: accepted by Verilator's lint")
    return 0


if __name__ == "__main__":
    sys.exit(main())
