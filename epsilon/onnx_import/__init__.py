"""Imports quantised ONNX models (QDQ form, 8 bits, as ``onnxruntime.quantization.quantize_static`` writes them).

Every output of the model is an exit. The rounding in front of an output and a softmax are left out: an exit keeps the integer sums.
Multiplications by scales become fixed-point ones of 31 bits that round half up, where ONNX Runtime divides in float32 and rounds
half to even; so now and then a code differs by 1.

With an exact multiplier, zero points change nothing: that of a layer's input joins the bias, and padding is with its code. The
array multiplies the codes as they are stored, so under an approximate multiplier the errors are those of the products of code and
weight, not of real value and weight: a real 0, which a ReLU gives most often, is no longer a product without error. Symmetric
activations (``ActivationSymmetric`` of ``quantize_static``) have no zero points and are the better choice there.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from epsilon.network import InvalidNetworkError, QuantizedNetwork
from epsilon.onnx_import.building import Builder, safe_name
from epsilon.onnx_import.reading import OnnxImportError, Scale, read
from epsilon.quantize import QuantizationError
from epsilon.sentences import first_line
from epsilon.validation import macs, validate

__all__ = ["OnnxImportError", "import_onnx"]

LEVELS = np.arange(256)


def import_onnx(path: str | os.PathLike, *, mean: Sequence[float] = (0.0,), std: Sequence[float] = (1.0,)) -> QuantizedNetwork:
    """Return the integer network of a quantised ONNX model.

    Parameters
    ----------
    path : path
        The ``.onnx`` file; the network gets its name.
    mean, std : sequence of float
        What the model's input is made of: ``(pixel / 255 - mean) / std``; a number for all channels, or one for each.

    Raises
    ------
    OSError
        When the file cannot be read.
    OnnxImportError
        In one sentence, for a model that has no integer form here; see ``reading.read`` and ``building.Builder``.
    InvalidNetworkError
        For layers that do not fit each other.
    """
    path = Path(path)
    try:
        network = _imported(path, mean, std)
    except (OnnxImportError, InvalidNetworkError, QuantizationError):
        raise
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        # A damaged model that the checker lets pass: attributes of the wrong type, shapes that do not fit.
        sentence = first_line(error)
        raise OnnxImportError(f"{path} does not describe a network ({type(error).__name__}: {sentence})") from error
    weights = sum(layer.weight.size for layer in network.weighted)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    made = {"by": "epsilon import", "source": path.name, "sha256": sha256, **network.metadata}
    return validate(replace(network, metadata={"made": made, "macs_per_image": macs(network), "weights": weights}))


def _imported(path: Path, mean: Sequence[float], std: Sequence[float]) -> QuantizedNetwork:
    """Return the network; its metadata say what its exits and its input are."""
    graph = read(path)
    channels = graph.input_shape[0]
    means, deviations = (_per_channel(what, values, channels) for what, values in (("mean", mean), ("std", std)))
    if (deviations <= 0).any():
        raise OnnxImportError(f"The std of a channel must be positive, not {deviations.min():g}")

    def table(scale: Scale) -> np.ndarray:
        real = ((LEVELS / 255 - means[:, None]) / deviations[:, None]).astype(np.float32)
        # In float32, as the model's own QuantizeLinear.
        return (np.rint(real / np.float32(scale.scale)) + scale.zero).clip(-128, 127).astype(np.int8)

    network, outputs = Builder(graph, table).network(safe_name(path.stem, "network"))
    return replace(network, metadata={"outputs": outputs, "mean": means.tolist(), "std": deviations.tolist()})


def _per_channel(what: str, values: Sequence[float], channels: int) -> np.ndarray:
    if len(values) not in (1, channels) or not np.isfinite(values).all():
        raise OnnxImportError(f"The {what} must be one number, or one for each of the {channels} channels, not {list(values)}")
    return np.broadcast_to(np.asarray(values, np.float64), channels)
