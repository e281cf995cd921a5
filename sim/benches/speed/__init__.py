"""How fast the accelerator runs when cocotb drives every beat of its streams."""
