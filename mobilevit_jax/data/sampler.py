"""The multi-scale sampler as a pure plan: which records are trained at which size, in which step.

A table of scales is fixed by the configuration alone. An epoch's plan follows from
(seed, epoch, number of examples, table), so every host computes the same one, devices only slice
it, and nothing but the step has to be remembered to resume. A run's plan is that of its epochs,
one behind another, so that reading ahead does not stop where an epoch ends.

Large images come in small batches and small images in large ones, which keeps the cost of a step
about level and makes an epoch take fewer updates. Two rules give the batch of a size, both for a
reference device that holds b0 images at the base size H0 x W0:

* "cvnets", the code behind the published checkpoints (CVNets v0.1): b = max(b0, int(H0 W0 b0 /
  (H W))), rounded to a multiple of the number of devices. Sizes above the base keep b0. ImageNet
  with b0 = 128 on 8 devices takes 855 updates an epoch on average (256 thousand in 300 epochs).
* "area" (CVNets v0.3 and later): b = max(1, int(H0 W0 b0 / (H W))), not rounded, so that the
  batches above the base size shrink too: 924 updates an epoch (277 thousand).

The standard sampler, one size, takes 1252 (376 thousand). The paper reports 375 thousand for the
standard and 232 thousand for the multi-scale sampler (Figure 5b); no released configuration gives
exactly the latter. The paper's formula takes b0 at the largest size, all code at the base size.
"""

import bisect
import itertools
import math
import threading
from dataclasses import dataclass, fields
from typing import Literal, NamedTuple

import numpy as np

from mobilevit_jax.errors import ConfigurationError, DataError, check_fields, unknown_name

_DIVISOR = 32  # stride of the deepest feature map
_RULES = ("cvnets", "area")


class Scale(NamedTuple):
    """One image size in pixels, with the number of images of a batch over all devices."""

    height: int
    width: int
    batch_size: int

    @property
    def name(self) -> str:
        """Height and width: "64x64"."""
        return f"{self.height}x{self.width}"


class PlannedBatch(NamedTuple):
    """One step: the size of its images in pixels and its record ids, int64 [b], for all hosts.

    What is drawn at random for a record follows from the epoch, too.
    """

    height: int
    width: int
    ids: np.ndarray
    epoch: int = 0


@dataclass(frozen=True)
class SamplerConfig:
    """How sizes and batches are chosen.

    Attributes:
        batch_size: Images of a batch at the base size, over all devices.
        base_size: Image size in pixels to which `batch_size` refers.
        min_size: Smallest image size in pixels.
        max_size: Largest image size in pixels.
        count: Number of sizes between `min_size` and `max_size`, both included; the base size is
            added to them, and each is rounded to a multiple of 32.
        sizes: The sizes in pixels outright, instead of the three settings above; the
            standard sampler has one, for example (256,).
        rule: Batch of each size: "cvnets" keeps `batch_size` above the base size, as CVNets v0.1
            does; "area" lowers it there in proportion to the image's area.
        reference_devices: Number of devices that the rule reckons with (8 in the paper). It does
            not depend on the devices that are there, so that a run can move to other machines.
    """

    batch_size: int = 1024
    base_size: int = 256
    min_size: int = 160
    max_size: int = 320
    count: int = 5
    sizes: tuple[int, ...] | None = None
    rule: Literal["cvnets", "area"] = "cvnets"
    reference_devices: int = 8

    def __post_init__(self) -> None:
        numbers = ("batch_size", "base_size", "min_size", "max_size", "count", "reference_devices")
        check_fields(
            self, "", **{name: (getattr(self, name) >= 1, "at least 1") for name in numbers}
        )
        if self.rule not in _RULES:
            raise unknown_name("rule of the sampler", self.rule, _RULES)
        if self.batch_size % self.reference_devices:
            near = _multiples(self.batch_size, self.reference_devices)
            raise ConfigurationError(
                f"batch_size {self.batch_size} is not a multiple of reference_devices "
                f"{self.reference_devices}; take {near}, or change reference_devices"
            )
        if self.sizes is not None:
            sizes = self.sizes
            differ = bool(sizes) and min(sizes) >= 1 and len(set(sizes)) == len(sizes)
            check_fields(self, sizes=(differ, "different whole numbers of at least 1"))
            self._refuse_ranges()
        elif self.min_size > self.max_size:
            raise ConfigurationError(
                f"min_size {self.min_size} is larger than max_size {self.max_size}"
            )

    def _refuse_ranges(self) -> None:
        """Refuses settings of sizes that `sizes` leaves without effect."""
        defaults = {field.name: field.default for field in fields(self)}
        for name in ("min_size", "max_size", "count"):
            value = getattr(self, name)
            if value != defaults[name]:
                raise ConfigurationError(
                    f"sizes are given outright, so {name} {value} would have no effect; leave it "
                    "out, or set sizes to None"
                )


def scale_table(config: SamplerConfig) -> tuple[Scale, ...]:
    """Computes the scales of a configuration, from small to large.

    With the defaults: 160, 192, 256, 288 and 320 pixels with 2624, 1792, 1024, 1024 and 1024
    images."""
    if config.sizes is not None:
        sizes = sorted(config.sizes)
    else:
        sizes = _rounded_sizes(config)
    return tuple(Scale(size, size, _batch_at(size, config)) for size in sizes)


def check_devices(table: tuple[Scale, ...], devices: int, parts: int = 1) -> None:
    """Checks that every batch of a table can be divided among the devices.

    Args:
        table: The scales of a run.
        devices: Number of devices over all hosts.
        parts: Parts that each device splits its share into (gradient accumulation).

    Raises:
        ConfigurationError: Names the first scale whose batch does not divide.
    """
    for height, width, batch_size in table:
        if batch_size % (devices * parts):
            accumulated = f" in {parts} parts each" if parts > 1 else ""
            nearest = _multiples(batch_size, devices * parts)
            raise ConfigurationError(
                f"the batch of {batch_size} images at {height}x{width} does not divide among "
                f"{devices} devices{accumulated}; the nearest that would is {nearest}: "
                "change batch_size, reference_devices or the rule of the sampler"
            )


def plan_epoch(
    seed: int, epoch: int, num_examples: int, table: tuple[Scale, ...]
) -> list[PlannedBatch]:
    """Plans an epoch: each step's size is drawn uniformly and takes the next records in line.

    Every record appears at least once. The last batch is filled up with records from the front of
    the epoch's order, round and round if the data set is smaller than the batch.

    Args:
        seed: Seed of the run, at least 0.
        epoch: Epoch, counted from 0.
        num_examples: Number of records, with ids 0 to num_examples - 1.
        table: The scales to draw from.

    Returns:
        One `PlannedBatch` a step.
    """
    draws, ends = _draw_scales(seed, epoch, num_examples, table)
    order = np.random.default_rng((seed, epoch, 1)).permutation(num_examples)
    order = np.resize(order, int(ends[-1]))  # repeats from the front
    starts = [0, *ends[:-1].tolist()]
    return [
        PlannedBatch(table[k].height, table[k].width, order[start:end], epoch)
        for k, start, end in zip(draws.tolist(), starts, ends.tolist(), strict=True)
    ]


def steps_in_epoch(seed: int, epoch: int, num_examples: int, table: tuple[Scale, ...]) -> int:
    """Counts the steps of `plan_epoch` without ordering the records; takes the same arguments."""
    return len(_draw_scales(seed, epoch, num_examples, table)[0])


class RunPlan:
    """The plans of a run's epochs, one behind another: a sequence of `PlannedBatch`.

    An epoch is planned when one of its steps is asked for, by whichever thread; at most two are
    kept, since a plan holds the order of all records.

    Attributes:
        table: The scales to draw from.
        steps_of_epochs: Steps of each epoch.
    """

    def __init__(self, seed: int, epochs: int, num_examples: int, table: tuple[Scale, ...]) -> None:
        """Counts the steps of each epoch; takes the arguments of `plan_epoch`."""
        self.table = table
        self.steps_of_epochs = [
            steps_in_epoch(seed, epoch, num_examples, table) for epoch in range(epochs)
        ]
        self._starts = [0, *itertools.accumulate(self.steps_of_epochs)]
        self._seed, self._num_examples = seed, num_examples
        self._planned: dict[int, list[PlannedBatch]] = {}
        self._planning = threading.Lock()

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, step: int) -> PlannedBatch:
        if not 0 <= step < len(self):
            raise IndexError(f"step {step} of a run of {len(self)}")
        epoch = bisect.bisect_right(self._starts, step) - 1
        return self._plan(epoch)[step - self._starts[epoch]]

    def _plan(self, epoch: int) -> list[PlannedBatch]:
        with self._planning:
            if epoch not in self._planned:
                if len(self._planned) == 2:
                    del self._planned[min(self._planned)]
                self._planned[epoch] = plan_epoch(self._seed, epoch, self._num_examples, self.table)
            return self._planned[epoch]


def plan_evaluation(
    num_examples: int, height: int, width: int, batch_size: int
) -> list[tuple[PlannedBatch, np.ndarray]]:
    """Plans one pass over all records in order, with batches of one size.

    Args:
        num_examples: Number of records.
        height: Image height in pixels.
        width: Image width in pixels.
        batch_size: Images of every batch, over all devices.

    Returns:
        Pairs of a batch and its weights, float32 [b]: 1, and 0 for the padding of the last batch
        (which repeats the last record). The weights sum to `num_examples` exactly.
    """
    _check_examples(num_examples)
    if batch_size < 1:
        raise ConfigurationError(f"batch_size must be at least 1, not {batch_size}")
    plan = []
    for start in range(0, num_examples, batch_size):
        ids = np.arange(start, start + batch_size, dtype=np.int64)
        weight = (ids < num_examples).astype(np.float32)
        plan.append((PlannedBatch(height, width, np.minimum(ids, num_examples - 1)), weight))
    return plan


def _rounded_sizes(config: SamplerConfig) -> list[int]:
    spaced = np.linspace(config.min_size, config.max_size, config.count).tolist()
    return sorted({_round_to_multiple(size, _DIVISOR) for size in [*spaced, config.base_size]})


def _round_to_multiple(value: float, divisor: int) -> int:
    """Rounds to the nearest multiple (half up, at least one), but never by more than 10% down."""
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


def _batch_at(size: int, config: SamplerConfig) -> int:
    """Returns the global batch at a size."""
    base = config.batch_size // config.reference_devices
    by_area = base * config.base_size**2 // size**2
    if config.rule == "area":
        return max(1, by_area) * config.reference_devices
    if by_area <= base:
        # v0.1 would round this one too; a multiple, as in the published recipes, stays what it is.
        return config.batch_size
    rounded = _round_to_multiple(by_area, config.reference_devices)
    return max(base, rounded) * config.reference_devices


def _draw_scales(
    seed: int, epoch: int, num_examples: int, table: tuple[Scale, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Draws the scale of each step until every record is used.

    Returns:
        Indices into the table, int64 [steps], and the images used up to and including each step,
        int64 [steps].
    """
    _check_examples(num_examples)
    if not table:
        raise ConfigurationError("the table of scales is empty")
    if seed < 0 or epoch < 0:
        raise ConfigurationError(f"seed and epoch must be at least 0, not {seed} and {epoch}")
    sizes = np.array([scale.batch_size for scale in table], np.int64)
    most_steps = math.ceil(num_examples / int(sizes.min()))
    draws = np.random.default_rng((seed, epoch, 0)).integers(len(table), size=most_steps)
    ends = np.cumsum(sizes[draws])
    steps = int(np.searchsorted(ends, num_examples)) + 1
    return draws[:steps], ends[:steps]


def _check_examples(num_examples: int) -> None:
    if num_examples < 1:
        raise DataError("the split has no examples to plan an epoch with")


def _multiples(value: int, divisor: int) -> str:
    """Returns the multiples around a value, as text."""
    below = value // divisor * divisor
    return f"{below} or {below + divisor}" if below else str(divisor)
