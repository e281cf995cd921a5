"""Commands `energy table` and `energy measure`."""

from __future__ import annotations

import typer

from epsilon.cli import options

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Energy per event of the accelerator, and (apart from it) joules of the emulator.")


@app.command()
def table(
    multiplier: options.MultiplierName = "KVP",
    table_file: options.EnergyTableFile = None,
    json_file: options.Json = None,
) -> None:
    """The energy of every event, pJ, with its source."""
    from epsilon.cli.output import console, new_table, write_json
    from epsilon.energy import missing_energy
    from epsilon.energy.table import NAMES, OPTIONAL
    from epsilon.multipliers import get

    chosen, energies = get(multiplier), options.energy_table(table_file)
    product = energies.multiplication(chosen)
    entries = {OPTIONAL: product, **energies.entries}
    known = {name: entries[name] for name in NAMES if entries[name] is not None}
    if json_file is not None:
        write_json(json_file, {"multiplier": chosen.key, "energies": {name: vars(entry) for name, entry in known.items()}})
    out = console()
    shown = new_table(f"Energy of events, {chosen.key}", "energy", "of", "pJ", "technology", "source", left=2)
    for name in ("technology", "source"):
        next(column for column in shown.columns if column.header == name).justify = "left"
    for name, entry in known.items():
        shown.add_row(name, NAMES[name], f"{entry.pj:.6g}", entry.technology, entry.source)
    out.print(shown)
    if product is None:
        out.print(f"{missing_energy(chosen)}.", soft_wrap=True, markup=False)


@app.command()
def measure(
    network: options.Network = "digits",
    images: options.Images = 1000,
    rows: options.Rows = 8,
    cols: options.Cols = 8,
    multiplier: options.MultiplierName = "KVP",
    device: options.Device = "cpu",
    dataset: options.DatasetName = None,
    data: options.Data = None,
    json_file: options.Json = None,
) -> None:
    """Joules of this machine while the emulator runs images through all exits, without faults; needs RAPL or NVML."""
    from epsilon.cli.output import console, new_table, write_json
    from epsilon.devices import require_device
    from epsilon.emulator import Emulator
    from epsilon.energy import measurement
    from epsilon.executor import encode
    from epsilon.network_io import load
    from epsilon.techniques import gamma_of, run_technique

    devices = measurement.meters()
    config = options.array_config(rows, cols, multiplier, "words")
    loaded = load(network)
    found = options.labelled_images(loaded, images, data, dataset)
    codes, gamma = encode(loaded, found.images), gamma_of(loaded, config)
    emulator = Emulator(config, require_device(device))

    def run():
        return run_technique("none", emulator, loaded, codes, found.labels, faults=None, gamma=gamma)

    run()  # kernels are compiled and caches filled before anything is measured
    measured = measurement.measure(run, devices)
    count = len(codes)
    if json_file is not None:
        settings = {"network": network, "multiplier": config.multiplier.key, "images": count, "device": device}
        write_json(json_file, {**settings, "emulator_seconds": measured.seconds, "emulator_joules": measured.joules})
    title = f"Joules of this machine, running the emulator: {network}, {count} images in {measured.seconds:.2f} s of wall clock"
    shown = new_table(title, "domain", "J", "mJ per image")
    for domain, joules in measured.joules.items():
        shown.add_row(domain, f"{joules:.3f}", f"{1000 * joules / count:.4f}")
    out = console()
    out.print(shown)
    out.print("Of the whole machine, and not of the accelerator; a package includes its cores.", soft_wrap=True)
