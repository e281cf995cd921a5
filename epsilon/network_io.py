"""The file format of quantised networks: one safetensors file, whose metadata holds the structure as JSON and a checksum.

A file is checked in full when it is loaded: checksum, structure, and everything that ``validate`` checks.
"""

from __future__ import annotations

import hashlib
import json
import os
from importlib import resources
from pathlib import Path

import numpy as np
import safetensors
from safetensors.numpy import save as to_safetensors

from epsilon.files import write_atomically
from epsilon.network import (
    Add,
    AvgPool2d,
    Convolution,
    Exit,
    Flatten,
    InvalidNetworkError,
    Layer,
    Linear,
    MaxPool2d,
    Pad2d,
    QuantizedNetwork,
    Relu,
    Requantization,
    WeightedLayer,
)
from epsilon.sentences import first_line
from epsilon.validation import validate

__all__ = ["builtin_names", "load", "network_digest", "save", "to_bytes", "validate"]

FORMAT, VERSION = "epsilon-network", 1
SUFFIX = ".safetensors"
KINDS: dict[str, type[Layer]] = {
    kind.__name__: kind for kind in (Add, AvgPool2d, Convolution, Exit, Flatten, Linear, MaxPool2d, Pad2d, Relu)
}
TUPLES = {
    Convolution: ("stride", "padding"),
    MaxPool2d: ("kernel", "stride"),
    AvgPool2d: ("kernel", "stride"),
    Pad2d: ("padding",),
}
SCALARS = {Convolution: ("groups",), Add: ("shift", "bias"), Pad2d: ("value",)}


def builtin_names() -> tuple[str, ...]:
    """Return the names of the networks that come with the project."""
    folder = resources.files("epsilon").joinpath("networks")
    return tuple(sorted(entry.name.removesuffix(SUFFIX) for entry in folder.iterdir() if entry.name.endswith(SUFFIX)))


def network_digest(network: QuantizedNetwork) -> str:
    """Return the SHA-256 (64 hexadecimal digits) of all that is executed: structure and tensors, not the metadata."""
    return _digest(_structure(network), _tensors(network))


def to_bytes(network: QuantizedNetwork) -> bytes:
    """Return the content of the network's file; equal networks give equal bytes."""
    validate(network)
    tensors = _tensors(network)
    header = {"format": FORMAT, "version": VERSION, "structure": _structure(network), "metadata": network.metadata}
    header["sha256"] = _digest(header, tensors)
    return to_safetensors(tensors, metadata={FORMAT: _canonical(header)})


def save(network: QuantizedNetwork, path: str | os.PathLike) -> None:
    """Write the network to a file, all or nothing.

    Raises
    ------
    InvalidNetworkError
        When the network does not hold together; nothing is written.
    """
    write_atomically(path, to_bytes(network))


def load(source: str | os.PathLike) -> QuantizedNetwork:
    """Return the network of a file, or the one that comes with the project under that name.

    Raises
    ------
    InvalidNetworkError
        When there is no such file, and for a truncated, altered or foreign one.
    """
    if str(source) in builtin_names():
        with resources.as_file(resources.files("epsilon").joinpath("networks", f"{source}{SUFFIX}")) as path:
            return _load_file(path)
    path = Path(source)
    if not path.is_file():
        builtin = ", ".join(builtin_names())
        raise InvalidNetworkError(f"There is no network file {str(source)!r}, and no built-in network of that name ({builtin})")
    return _load_file(path)


def _load_file(path: Path) -> QuantizedNetwork:
    try:
        with safetensors.safe_open(path, framework="np") as file:
            written = (file.metadata() or {}).get(FORMAT)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dictionary)
    except (safetensors.SafetensorError, OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise InvalidNetworkError(f"{path} is not a readable network file ({first_line(error)})") from None
    if written is None:
        raise InvalidNetworkError(f"{path} is a safetensors file, but not one of a quantised network")
    try:
        header = json.loads(written)
        expected = header.pop("sha256")
        if (header.pop("format"), version := header.pop("version")) != (FORMAT, VERSION):
            raise InvalidNetworkError(f"{path} has the format version {version!r}, and only {VERSION} can be read")
        if _digest({"format": FORMAT, "version": VERSION, **header}, tensors) != expected:
            raise InvalidNetworkError(f"{path} does not have the checksum it states: it was altered or damaged")
        return validate(_build(header["structure"], header["metadata"], tensors))
    except InvalidNetworkError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InvalidNetworkError(f"{path} does not describe a network ({type(error).__name__}: {first_line(error)})") from None


def _structure(network: QuantizedNetwork) -> dict:
    return {
        "name": network.name,
        "input_shape": list(network.input_shape),
        "classes": network.classes,
        "layers": [_describe(layer) for layer in network.layers],
        # Left out where there are none, so that files from before there were any keep their checksum.
        **({"corrections": sorted(network.corrections)} if network.corrections else {}),
    }


def _describe(layer: Layer) -> dict:
    entry = {"kind": type(layer).__name__, "name": layer.name, "inputs": list(layer.inputs)}
    entry |= {attribute: list(getattr(layer, attribute)) for attribute in TUPLES.get(type(layer), ())}
    entry |= {attribute: getattr(layer, attribute) for attribute in SCALARS.get(type(layer), ())}
    if isinstance(layer, AvgPool2d) and layer.bias:
        # Left out when 0, so that files from before there was one keep their checksum.
        entry["bias"] = layer.bias
    if isinstance(layer, Add):
        entry["clamp"] = [layer.low, layer.high]
    requantization = getattr(layer, "requantization", None)
    if requantization is not None:
        entry["clamp"] = [requantization.low, requantization.high]
        if requantization.zero:
            # Left out when 0, like the bias above.
            entry["zero"] = requantization.zero
    return entry


def _tensors(network: QuantizedNetwork) -> dict[str, np.ndarray]:
    found = {"input_table": network.input_table}
    for layer in network.layers:
        if isinstance(layer, WeightedLayer):
            found |= {f"{layer.name}/weight": layer.weight, f"{layer.name}/bias": layer.bias}
        if isinstance(layer, Exit):
            found[f"{layer.name}/scale"] = layer.scale
        if isinstance(layer, Add):
            found[f"{layer.name}/multiplier"] = layer.multiplier
        requantization = getattr(layer, "requantization", None)
        if requantization is not None:
            found |= {f"{layer.name}/multiplier": requantization.multiplier, f"{layer.name}/shift": requantization.shift}
    for mask, corrections in network.corrections.items():
        found |= {f"corrections/{mask}/{name}": correction for name, correction in corrections.items()}
    return {name: np.ascontiguousarray(array) for name, array in found.items()}


def _build(structure: dict, metadata: dict, tensors: dict[str, np.ndarray]) -> QuantizedNetwork:
    remaining = dict(tensors)
    network = QuantizedNetwork(
        name=structure["name"],
        input_shape=tuple(structure["input_shape"]),
        input_table=remaining.pop("input_table"),
        layers=tuple(_build_layer(entry, remaining) for entry in structure["layers"]),
        classes=structure["classes"],
        metadata=metadata,
        corrections={mask: _taken(remaining, f"corrections/{mask}/") for mask in structure.get("corrections", ())},
    )
    if remaining:
        raise InvalidNetworkError(f"Network {network.name!r} has tensors that belong to no layer: {', '.join(sorted(remaining))}")
    return network


def _taken(remaining: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """Take the tensors whose names begin so, and return them by the rest of their names."""
    return {name.removeprefix(prefix): remaining.pop(name) for name in sorted(remaining) if name.startswith(prefix)}


def _build_layer(entry: dict, remaining: dict[str, np.ndarray]) -> Layer:
    kind = KINDS.get(entry["kind"])
    name = entry["name"]
    if kind is None:
        raise InvalidNetworkError(f"Layer {name!r} is of an unknown kind, {entry['kind']!r}")
    fields = {attribute: tuple(entry[attribute]) for attribute in TUPLES.get(kind, ())}
    fields |= {attribute: entry[attribute] for attribute in SCALARS.get(kind, ())}
    if kind is AvgPool2d:
        fields["bias"] = entry.get("bias", 0)
    if issubclass(kind, WeightedLayer):
        fields |= {"weight": remaining.pop(f"{name}/weight"), "bias": remaining.pop(f"{name}/bias")}
    if kind is Exit:
        fields["scale"] = remaining.pop(f"{name}/scale")
    if kind is Add:
        low, high = entry["clamp"]
        fields |= {"multiplier": remaining.pop(f"{name}/multiplier"), "low": low, "high": high}
    elif "clamp" in entry:
        low, high = entry["clamp"]
        multiplier, shift = remaining.pop(f"{name}/multiplier"), remaining.pop(f"{name}/shift")
        fields["requantization"] = Requantization(multiplier, shift, low, high, entry.get("zero", 0))
    return kind(name=name, inputs=tuple(entry["inputs"]), **fields)


def _canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _digest(header: dict, tensors: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256(_canonical(header).encode())
    for name, array in sorted(tensors.items()):
        digest.update(f"\0{name}\0{array.dtype.str}\0{array.shape}\0".encode())
        digest.update(array.astype(array.dtype.newbyteorder("<")).tobytes())
    return digest.hexdigest()
