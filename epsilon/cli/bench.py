"""Command `bench`: speed of the simulated hardware, in one run so that the ratios hold."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from epsilon.cli import options

if TYPE_CHECKING:
    from epsilon.config import ArrayConfig
    from epsilon.network import QuantizedNetwork

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Measure speed on this machine.")

#: Array sides, multipliers and levels measured when nothing is asked for.
DEFAULTS = ((8, "KV6", "words"), (8, "KVP", "words"), (8, "KVP", "gates"), (16, "KV6", "words"), (16, "KVP", "words"))
CHANNELS, SIDE, KERNEL = 64, 16, 3
#: Seconds that a measurement lasts at least.
SPAN_S = 1.0


@app.callback()
def _bench() -> None:
    """Measure speed on this machine."""


@app.command()
def array(
    rows: options.Rows = 0,
    cols: options.Cols = 0,
    multiplier: options.MultiplierName = "KVP",
    level: options.Level = "words",
    repeat: Annotated[int, typer.Option("--repeat", min=1, help="Measure so often and keep the fastest.")] = 3,
    json_file: options.Json = None,
) -> None:
    """Multiply-accumulates per second of the Verilated array, one core; without --rows and --cols a small set of arrays."""
    from epsilon.cli.output import console, new_table, progress_bar, write_json

    chosen = [(rows or cols, cols or rows, multiplier, level)] if rows or cols else [(n, n, m, v) for n, m, v in DEFAULTS]
    configs = [options.array_config(*each) for each in chosen]
    found = []
    with progress_bar("building and measuring", len(configs)) as update:
        for done, config in enumerate(configs):
            update(done, f"{config.rows}x{config.cols} {config.multiplier.short_name} {config.level}")
            found.append(_measure(config, repeat))
        update(len(configs))
    table = new_table(
        f"Convolution {CHANNELS} to {CHANNELS} channels, {KERNEL}x{KERNEL}, on {SIDE}x{SIDE} outputs; Verilated, one core",
        "array", "level", "build s", "million MAC/s", "million cycles/s", "MAC per cycle", "PEs busy %", "ratio",
        left=2,
    )  # fmt: skip
    for row in found:
        table.add_row(
            row["array"],
            row["level"],
            f"{row['build_s']:.1f}",
            f"{row['mac_per_s'] / 1e6:.1f}",
            f"{row['cycles_per_s'] / 1e6:.2f}",
            f"{row['mac_per_cycle']:.1f}",
            f"{100 * row['busy']:.0f}",
            f"{row['mac_per_s'] / found[0]['mac_per_s']:.2f}",
        )
    console().print(table)
    if json_file is not None:
        write_json(json_file, {"rows": found})


def _measure(config: ArrayConfig, repeat: int) -> dict:
    """Return the figures of one array: the fastest of ``repeat`` spans."""
    import torch

    from sim.rtl import RtlAccelerator

    network = _network()
    start = time.perf_counter()
    accelerator = RtlAccelerator(config)
    build_s = time.perf_counter() - start
    accelerator.load(network)
    codes = torch.randint(-128, 128, (1, CHANNELS, SIDE, SIDE), dtype=torch.int8, generator=torch.Generator().manual_seed(1))
    macs = CHANNELS * CHANNELS * KERNEL * KERNEL * SIDE * SIDE
    accelerator.run_layer("conv", codes)
    best = 0.0
    accelerator.reset_counters()
    images = 0
    for _ in range(repeat):
        spent, here = 0.0, 0
        while spent < SPAN_S:
            start = time.perf_counter()
            accelerator.run_layer("conv", codes)
            spent += time.perf_counter() - start
            here += 1
        best = max(best, here / spent)
        images += here
    cycles = accelerator.counters().run / images
    return {
        "array": f"{config.rows}x{config.cols} {config.multiplier.short_name}",
        "level": config.level,
        "build_s": build_s,
        "mac_per_s": best * macs,
        "cycles_per_s": best * cycles,
        "mac_per_cycle": macs / cycles,
        "busy": macs / cycles / config.pes,
    }


def _network() -> QuantizedNetwork:
    """Return a network of one convolution with random weights."""
    import numpy as np

    from epsilon.network import Convolution, QuantizedNetwork, Requantization

    weight = np.random.default_rng(0).integers(-127, 128, (CHANNELS, CHANNELS, KERNEL, KERNEL)).astype(np.int8)
    convolution = Convolution(
        name="conv",
        inputs=("input",),
        weight=weight,
        bias=np.zeros(CHANNELS, np.int32),
        requantization=Requantization(np.array([1], np.int32), np.array([16], np.int8)),
        padding=(1, 1),
    )
    table = np.arange(-128, 128, dtype=np.int16).astype(np.int8)
    return QuantizedNetwork(
        name="bench",
        input_shape=(CHANNELS, SIDE, SIDE),
        input_table=np.tile(table, (CHANNELS, 1)),
        layers=(convolution,),
        classes=CHANNELS,
    )
