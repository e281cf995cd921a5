"""EPSILON: fault detection and repair in approximate DNN accelerators, hardware and software.

Importing this package is light (numpy only); the emulator needs torch, the hardware needs Amaranth.
"""

__version__ = "0.1.0"
