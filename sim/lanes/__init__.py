"""Bit-lane simulation: the design's netlist as straight-line C in which every bit of a machine word is a simulation of its own."""
