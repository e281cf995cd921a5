"""Ways to run the hardware: the Verilated model in process, cocotb benches, and the cycle model."""
