"""The exact integer engine: sums of approximate products at the speed of ordinary convolutions.

``pack`` prepares a layer's weights once; the result runs batches. On x86-64 processors a small C++ library does it, compiled on
first use for what the processor can (``native``); everywhere else, and on other devices, torch does (``float_path``,
``table_path``). All paths give the same integers, those of the hardware's 32-bit accumulators.
"""

from epsilon.engine.bounds import AccumulatorError
from epsilon.engine.packing import PackedLayer, pack
from epsilon.engine.shapes import LayerShape

__all__ = ["AccumulatorError", "LayerShape", "PackedLayer", "pack"]
