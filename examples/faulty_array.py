"""A third of the PEs have a bit stuck at 1: what that costs, and what EPSILON gets back with each repair."""

from epsilon import data, network_io
from epsilon.config import ArrayConfig
from epsilon.emulator import Emulator
from epsilon.executor import encode
from epsilon.faults import FaultMap
from epsilon.techniques import gamma_of, run_technique

config = ArrayConfig(rows=8, cols=8, multiplier="KVP")
network = network_io.load("digits")
test = data.load("digits", "test")
codes = encode(network, test.images)
faults = FaultMap.sample(network, config, site="array", rate=1 / 3, polarity=1, seed=7)

for technique in ("none", "quartile", "zero", "nearest", "invert"):
    outcome = run_technique(
        technique, Emulator(config), network, codes, test.labels, faults=faults, gamma=gamma_of(network, config)
    )
    checked = [check.image for check in outcome.stream.repairs]
    print(f"{technique:9} {outcome.accuracy}, exits taken {outcome.exits_taken}, repaired at images {checked}")
