"""cocotb benches of the hardware, one folder per device under test; run them with ``python -m sim.benches``."""
