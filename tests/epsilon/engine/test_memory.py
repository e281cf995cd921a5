"""Peak memory of a whole process that runs VGG16 at full width on a batch of 256."""

import subprocess
import sys

LIMIT_MIB = 2048
PROGRAM = """
import resource
import numpy as np, torch
from epsilon.config import ArrayConfig
from epsilon.emulator import Emulator
from epsilon.executor import Execution
from epsilon.network import Convolution, Exit, Flatten, Linear, MaxPool2d, QuantizedNetwork, Requantization

rng = np.random.default_rng(0)
layers, source, channels = [], "input", 3

def fields(name, weight):
    count = len(weight)
    form = Requantization(np.full(count, 2**30, np.int32), np.full(count, 43, np.int8), 0)
    return dict(name=name, inputs=(source,), weight=weight, bias=np.zeros(count, np.int32), requantization=form)

for number, outputs in enumerate([64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0]):
    if outputs:
        weight = rng.integers(-127, 128, (outputs, channels, 3, 3)).astype(np.int8)
        layers.append(Convolution(**fields(f"conv{number}", weight), padding=(1, 1)))
        channels = outputs
    else:
        layers.append(MaxPool2d(name=f"pool{number}", inputs=(source,), kernel=(2, 2), stride=(2, 2)))
    source = layers[-1].name
layers.append(Flatten(name="flat", inputs=(source,)))
source = "flat"
layers.append(Linear(**{**fields("fc", rng.integers(-127, 128, (10, 512)).astype(np.int8)), "requantization": None}))
layers.append(Exit(name="exit", inputs=("fc",), scale=np.ones(10)))
table = np.tile(np.arange(-128, 128).astype(np.int8), (3, 1))
network = QuantizedNetwork(name="vgg16", input_shape=(3, 32, 32), input_table=table, layers=tuple(layers), classes=10)
accelerator = Emulator(ArrayConfig(rows=16, cols=16, multiplier="KVP"))
accelerator.load(network)
codes = torch.from_numpy(rng.integers(-128, 128, (256, 3, 32, 32)).astype(np.int8))
assert Execution(accelerator, codes).exit(-1).shape == (256, 10)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def test_vgg16_at_batch_256_stays_below_two_gib():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < LIMIT_MIB
