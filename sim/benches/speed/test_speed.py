"""Not a test of the hardware: a measurement of its simulation, written to the file that the environment names."""

import json
import os
import time
from pathlib import Path

import cocotb

from sim.bench_workers import Pace, memory_mb, work_of
from sim.benches.runner import CONFIG_VARIABLE, config_of
from sim.benches.streams import StreamBench


@cocotb.test()
async def speed(dut):
    started = time.perf_counter()
    config = config_of(CONFIG_VARIABLE)
    bench = StreamBench(dut, config)
    await bench.reset()
    pace = Pace(lambda target: work_of(config, target), float(os.environ["EPSILON_SPEED_SPAN"]))
    for work in pace:
        begun = time.perf_counter()
        run = await bench.run(work.program, max_cycles=4 * work.cycles + 1000)
        pace.took(time.perf_counter() - begun)
        work.require_equal(config, run.results)
    found = {**pace.figures(), "memory_mb": memory_mb(), "ran_s": time.perf_counter() - started}
    Path(os.environ["EPSILON_SPEED_FILE"]).write_text(json.dumps(found))
