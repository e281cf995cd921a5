"""Command line of the benches: ``python -m sim.benches --sim verilator|icarus [--bench NAME] [--waves]``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from sim.benches.runner import BENCHES, SIMULATORS, BenchResult, require_simulator, run_bench
from sim.toolchain import ToolError


def main(arguments: list[str] | None = None) -> int:
    """Run the chosen benches; return 0 when all passed or the simulator is missing, 1 when a test failed, 2 when a build did."""
    parser = argparse.ArgumentParser(prog="python -m sim.benches", description="Run the cocotb benches of the hardware.")
    parser.add_argument("--sim", choices=SIMULATORS, default="verilator", help="the simulator (default: %(default)s)")
    parser.add_argument("--bench", choices=tuple(BENCHES), action="append", help="only this bench; may be repeated")
    parser.add_argument("--waves", action="store_true", help="record a waveform of each bench")
    parser.add_argument("--seed", type=int, default=1, help="of everything random (default: %(default)s)")
    parser.add_argument("--build", type=Path, default=Path("build/benches"), help="folder of builds (default: %(default)s)")
    options = parser.parse_args(arguments)

    try:
        require_simulator(options.sim)
    except ToolError as error:
        print(f"Skipped the benches with {options.sim}: {error}")
        return 0
    failed = 0
    try:
        for name in dict.fromkeys(options.bench or BENCHES):
            print(f"{options.sim} {name:<12} ", end="", flush=True)
            result = run_bench(BENCHES[name], options.sim, options.build, waves=options.waves, seed=options.seed)
            failed += bool(result.failed)
            print(_summary(result), flush=True)
    except (ToolError, OSError) as error:
        print(f"\n{error}", file=sys.stderr)
        return 2
    if failed:
        print(f"{failed} benches failed with seed {options.seed}", file=sys.stderr)
    return int(failed > 0)


def _summary(result: BenchResult) -> str:
    lines = [f"{len(result.tests) - len(result.failed.keys() & set(result.tests))} of {len(result.tests)} tests passed"]
    lines[0] += f" in {result.seconds:.1f} s"
    lines += [f"  {warning}" for warning in result.warnings]
    lines += [f"  FAILED {test}: {message}" for test, message in result.failed.items()]
    if result.failed:
        lines.append(f"  see {result.log}")
    if result.waves is not None:
        lines.append(f"  waveform: {result.waves}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
