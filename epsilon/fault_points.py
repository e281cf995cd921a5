"""Named places for faults, as in section IV-A of [Khalil & Hoque]: FP1 the final classifier, FP4 the first convolution, FP2 and FP3
spread evenly between.

FP3 and FP2 are the last layers of the backbone before the internal exits that lie nearest to a third and two thirds of the way.
"""

from __future__ import annotations

from epsilon.network import QuantizedNetwork, WeightedLayer

__all__ = ["fault_points", "resolve_layers"]


def fault_points(network: QuantizedNetwork) -> dict[str, str]:
    """Return the layer of each fault point that the network has: FP1 and FP4 always, FP2 and FP3 where there are internal exits."""
    classifiers = [network[layer.inputs[0]] for layer in network.exits]
    found = {"FP1": classifiers[-1].name}
    steps = len(classifiers)
    for point, part in (("FP2", 2), ("FP3", 1)):
        exit_number = round(part * steps / 3)
        if 1 <= exit_number < steps:
            found[point] = _backbone_layer(network, classifiers[exit_number - 1])
    found["FP4"] = network.weighted[0].name
    return found


def resolve_layers(network: QuantizedNetwork, names: list[str]) -> list[str]:
    """Return layer names, each fault point replaced by its layer; other names stay as they are.

    Raises
    ------
    ValueError
        For a fault point that the network does not have.
    """
    points = fault_points(network)
    known = {layer.name for layer in network.weighted}
    for name in names:
        if name.upper().startswith("FP") and name not in known and name.upper() not in points:
            raise ValueError(f"The fault points of network {network.name!r} are {', '.join(sorted(points))}, not {name!r}")
    return [name if name in known else points.get(name.upper(), name) for name in names]


def _backbone_layer(network: QuantizedNetwork, classifier: WeightedLayer) -> str:
    """Return the last weighted layer that a classifier's input comes from."""
    wanted = set(classifier.inputs)
    for layer in reversed(network.layers):
        if layer.name in wanted:
            if isinstance(layer, WeightedLayer):
                return layer.name
            wanted.update(layer.inputs)
    return classifier.name
