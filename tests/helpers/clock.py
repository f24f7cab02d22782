"""A timer by which operators take what a formula says, and small models to time."""

import json
import math

import keras
from keras import layers

from kprune.search.latency.operators import operators_of


def net(width=32):
    """Two convolutions with a residual sum, and a dense layer."""
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(width, 3, padding="same", activation="relu", name="stem")(inputs)
    y = layers.Conv2D(2 * width, 3, padding="same", activation="relu", name="wide")(x)
    x = layers.add([x, layers.Conv2D(width, 1, name="narrow")(y)])
    return keras.Model(inputs, layers.Dense(4, name="head")(layers.GlobalAveragePooling2D()(x)))


class Clock:
    """What `LocalTimer` does, without a clock.

    Args:
        block: int, how many channels are computed at once.
        constant: float, seconds of a whole file that no operator has.
        unknown: names of operators that cannot be timed alone.
    """

    anywhere = True
    place = ("clock",)

    def __init__(self, block=8, constant=0.0, unknown=()):
        self.block, self.constant, self.unknown = block, constant, unknown
        self.asked = []

    def time(self, shapes):
        sizes = [[math.ceil(n / self.block) * self.block for n in shape] for shape in shapes]
        return 1e-9 * sum(math.prod(shape) for shape in sizes)

    def operators(self, requests, advance=lambda: None):
        self.asked += requests
        return [None if o.name in self.unknown else self.time(shapes) for o, shapes in requests]

    def seconds(self, path):
        return self.constant + sum(self.time(one.shapes) for one in operators_of(path))

    def base(self):
        return 0.0

    def whole(self, dense, small):
        return self.seconds(small) / self.seconds(dense)


def device_times(paths, clock, path):
    """Write what `scripts/benchmark_device.py --together` would, were the device the clock."""
    rows = []
    for file in paths:
        known = {"empty": 0.0, "chain": 0.0}.get(file.stem)
        rows.append(
            {
                "path": f"there/{file.name}",
                "median": clock.seconds(file) if known is None else known,
            }
        )
    path.write_text(json.dumps({"rows": rows}))
    return path
