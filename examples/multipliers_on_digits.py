"""What each published multiplier costs in power, and what it does to a network that is otherwise healthy."""

from epsilon import data, multipliers, network_io
from epsilon.config import ArrayConfig
from epsilon.controller import vanilla
from epsilon.emulator import Emulator

network = network_io.load("digits")
test = data.load("digits", "test")
for multiplier in multipliers.catalogue().values():
    if multiplier.release == "v2022":
        accelerator = Emulator(ArrayConfig(multiplier=multiplier))
        accelerator.load(network)
        accuracy = vanilla(accelerator, test.images).accuracy(test.labels)
        print(
            f"{multiplier.short_name}: {multiplier.power_mw:.3f} mW, mean error {multiplier.error.mae:7.2f}, {accuracy:.1%} right"
        )
