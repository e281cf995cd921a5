"""Options that several commands share, and the objects they stand for."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    import numpy as np

    from epsilon.config import ArrayConfig
    from epsilon.data import Dataset
    from epsilon.energy import EnergyTable
    from epsilon.faults import FaultMap
    from epsilon.network import QuantizedNetwork

__all__ = [
    "Bits",
    "Cols",
    "Data",
    "DatasetName",
    "Device",
    "EnergyTableFile",
    "Faults",
    "Images",
    "Json",
    "Lanes",
    "Layers",
    "Level",
    "MultiplierName",
    "Network",
    "Polarity",
    "Rows",
    "Seed",
    "Site",
    "Threads",
    "array_config",
    "cores",
    "energy_table",
    "fault_map",
    "labelled_images",
    "read_image",
]

ARRAY, FAULTS = "Array", "Faults"

Network = Annotated[str, typer.Option("--network", metavar="NAME|FILE", help="A built-in network, see `networks`, or a file.")]
Data = Annotated[
    Path | None,
    typer.Option(
        "--data",
        metavar="FOLDER",
        help="Where the data sets are, see `data check`; else EPSILON_DATA, else MNIST or CIFAR is downloaded.",
    ),
]
DatasetName = Annotated[
    str | None,
    typer.Option(
        "--dataset", metavar="NAME", help="Test images of this data set; else of the one that the network was trained for."
    ),
]
Device = Annotated[str, typer.Option("--device", help="Where torch computes: cpu, cuda, ...")]
EnergyTableFile = Annotated[
    Path | None,
    typer.Option(
        "--table", metavar="FILE", help="Your own energies (YAML), in place of those of the same name; see `energy table`."
    ),
]
Images = Annotated[int, typer.Option("--images", min=0, help="How many images of the test split, from its start; 0 for all.")]
Json = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the result as JSON.")]

Rows = Annotated[int, typer.Option("--rows", help="Rows of the array (reduction), 1..64.", rich_help_panel=ARRAY)]
Cols = Annotated[int, typer.Option("--cols", help="Columns of the array (outputs), 1..64.", rich_help_panel=ARRAY)]
MultiplierName = Annotated[
    str,
    typer.Option(
        "--multiplier",
        metavar="NAME|FILE",
        help="Multiplier of every PE; see `multipliers`. Or your own: a Verilog file, or a table (.npy, .npz).",
        rich_help_panel=ARRAY,
    ),
]
Level = Annotated[
    str,
    typer.Option("--level", help="Netlist of the multiplier: words (masked products) or gates.", rich_help_panel=ARRAY),
]

Lanes = Annotated[
    int | None,
    typer.Option("--lanes", min=1, help="Simulations at once, one per bit lane. [default: 512 per thread]", rich_help_panel=ARRAY),
]
Threads = Annotated[
    int | None, typer.Option("--threads", min=1, help="Cores that share the lanes. [default: all]", rich_help_panel=ARRAY)
]

Faults = Annotated[
    float, typer.Option("--faults", metavar="RATE", help="Fraction of the registers with a stuck bit.", rich_help_panel=FAULTS)
]
Site = Annotated[
    str,
    typer.Option("--site", help="storage: each stored weight's register; array: the PEs' registers.", rich_help_panel=FAULTS),
]
Polarity = Annotated[str, typer.Option("--polarity", help="Stuck at 0, 1 or both.", rich_help_panel=FAULTS)]
Bits = Annotated[str, typer.Option("--bits", help="Bit positions: uniform or lsb-weighted.", rich_help_panel=FAULTS)]
Seed = Annotated[int, typer.Option("--seed", help="Seed of the fault map.", rich_help_panel=FAULTS)]
Layers = Annotated[
    str | None,
    typer.Option(
        "--layers", metavar="A,B", help="Faulty layers (or FP1..FP4), separated by commas (site storage).", rich_help_panel=FAULTS
    ),
]


def array_config(rows: int, cols: int, multiplier: str, level: str) -> ArrayConfig:
    """Return the configuration that the options describe."""
    from epsilon.config import ArrayConfig

    return ArrayConfig(rows=rows, cols=cols, multiplier=multiplier, level=level)


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def energy_table(path: Path | None) -> EnergyTable:
    """Return the energies that the option describes: the project's, with those of a file in their place."""
    from epsilon.energy import EnergyTable

    return EnergyTable.default() if path is None else EnergyTable.load(path)


def fault_map(
    network: QuantizedNetwork, config: ArrayConfig, rate: float, site: str, polarity: str, bits: str, seed: int, layers: str | None
) -> FaultMap:
    """Return the fault map that the options describe."""
    from epsilon.fault_points import resolve_layers
    from epsilon.faults import FaultMap

    named = None if layers is None else resolve_layers(network, [name.strip() for name in layers.split(",") if name.strip()])
    return FaultMap.sample(
        network,
        config,
        site=site,
        rate=rate,
        polarity=int(polarity) if polarity in ("0", "1") else polarity,
        bits=bits,
        seed=seed,
        layers=named,
    )


def labelled_images(network: QuantizedNetwork, images: int | None, data: Path | None, dataset: str | None = None) -> Dataset:
    """Return the first images, or all (None or 0), of the test split that the network was trained for, or of another data set."""
    from epsilon.data import load

    found = load(dataset or network.metadata.get("dataset", network.name), "test", data)
    return found.first(images or len(found))


def read_image(path: Path) -> np.ndarray:
    """Return the image of a PNG, or of any file that Pillow reads, or of an NPY file, as (1, C, H, W)."""
    import numpy as np

    if path.suffix.lower() == ".npy":
        try:
            pixels = np.load(path, allow_pickle=False)
        except (ValueError, EOFError):
            raise ValueError(f"{path} is not an array that can be read") from None
    else:
        from PIL import Image, UnidentifiedImageError

        try:
            with Image.open(path) as image:
                pixels = np.asarray(image if image.mode in ("L", "RGB") else image.convert("RGB" if image.mode == "P" else "L"))
        except UnidentifiedImageError:
            raise ValueError(f"{path} is not an image that can be read") from None
        pixels = pixels if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)
    return pixels[None, None] if pixels.ndim == 2 else pixels[None]
