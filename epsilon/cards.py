"""A network's card: in one page what it is, how it was made, and what it does without faults."""

from __future__ import annotations

from epsilon import multipliers
from epsilon.fault_points import fault_points
from epsilon.network import QuantizedNetwork

__all__ = ["OVERVIEW", "accuracy_rows", "card", "overview_row"]

#: Columns of the overview of all networks; accuracies are those of the last exit.
OVERVIEW = ("network", "data set", "layers", "weights", "MMAC per image", "exits", "exact", "KVP", "lowest", "KVP at gamma")
EXACT, SHOWN = "v2022/mul8s_1KV6", "v2022/mul8s_1KVP"
#: Sees two bits of an activation; networks are not tuned for it, and the lowest accuracy is that of the others.
LEFT_OUT = "v2022/mul8s_1L12"
COLUMNS = ("multiplier", "accuracy, exits taken at gamma", "each exit", "gamma")


def accuracy_rows(network: QuantizedNetwork, split: str = "test") -> list[tuple[str, str, str, str]]:
    """Return a row per multiplier that was measured: name, multi-exit accuracy, accuracy of each exit (percent), gamma."""
    rows = []
    measured = network.metadata.get("accuracy", {}).get(split, {}).get("by_multiplier", {})
    # By name: the order in a file says nothing.
    for key, found in sorted(measured.items(), key=lambda item: item[0].split("/")[-1]):
        each = " ".join(f"{100 * accuracy:.1f}" for accuracy in found["exits"])
        rows.append((key, f"{100 * found['multi_exit']:.2f} %", each, f"{network.metadata['gamma'][key]:.2f}"))
    return rows


def overview_row(network: QuantizedNetwork) -> tuple[str, ...]:
    """Return what a network is and how accurate without faults on the test split, in the columns of ``OVERVIEW``."""
    metadata = network.metadata
    found = metadata["accuracy"]["test"]["by_multiplier"]
    last = {key: accuracy["exits"][-1] for key, accuracy in found.items() if key != LEFT_OUT}
    lowest = min(last, key=last.get)
    return (
        network.name,
        metadata["dataset"],
        str(len(network.weighted)),
        f"{metadata['weights']:,}",
        f"{metadata['macs_per_image'] / 1e6:,.2f}",
        str(len(network.exits)),
        f"{100 * last[EXACT]:.2f} %",
        f"{100 * last[SHOWN]:.2f} %",
        f"{100 * last[lowest]:.2f} % ({multipliers.get(lowest).short_name})",
        f"{100 * found[SHOWN]['multi_exit']:.2f} %",
    )


def card(network: QuantizedNetwork) -> str:
    """Return the card as Markdown; everything in it is from the network file."""
    metadata = network.metadata
    made = metadata.get("made", {})
    recipe = made.get("recipe", {})
    test = metadata.get("accuracy", {}).get("test", {})
    lines = [f"# {network.name}", ""]
    facts = {
        "data set": metadata.get("dataset", "not stated"),
        "input": "x".join(map(str, network.input_shape)),
        "classes": network.classes,
        "exits": len(network.exits),
        "layers on the array": len(network.weighted),
        "weights": f"{sum(layer.weight.size for layer in network.weighted):,}",
        "multiplications per image": f"{metadata['macs_per_image']:,}" if "macs_per_image" in metadata else "not measured",
        "fault points": ", ".join(f"{point} = {layer}" for point, layer in sorted(fault_points(network).items())),
    }
    if made:
        facts["made by"] = _made(made, recipe)
    lines += [f"- {what}: {value}" for what, value in facts.items()]
    rows = accuracy_rows(network)
    if rows:
        lines += ["", f"Without faults, {test['images']} test images:", "", f"| {' | '.join(COLUMNS)} |", "|---|---|---|---|"]
        lines += [f"| {multipliers.get(key).short_name} ({key}) | {' | '.join(rest)} |" for key, *rest in rows]
    return "\n".join(lines) + "\n"


def _made(made: dict, recipe: dict) -> str:
    """Return in a phrase how the network was made."""
    parts = [made.get("by", "not stated")]
    if recipe:
        cycles = f" in {recipe['cycles']} cycles" if recipe.get("cycles", 1) > 1 else ""
        taught = " with distillation" if recipe.get("distillation") else ""
        parts.append(f"{recipe['epochs']} epochs in floating point{cycles}, {recipe['tuning_epochs']} as integers{taught}")
        tuned = ", ".join(multipliers.get(name).short_name for name in recipe["tuned_for"])
        parts.append(f"fine-tuned for {tuned}")
    parts += [f"{what} {made[what]}" for what in ("seed", "threads", "device", "torch") if what in made]
    return "; ".join(parts)
