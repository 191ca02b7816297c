"""What a trial's number decides without Optuna: its seed, and its point of a grid."""

from __future__ import annotations

import hashlib
import itertools
import math
import random
from typing import TYPE_CHECKING, Any

from mae_skill.errors import UsageError

from mae_sdk.automl.space import Parameter, SearchSpace

if TYPE_CHECKING:
    from mae_sdk.automl.options import AutoMLOptions


def trial_seed(seed: int, number: int) -> int:
    """The seed of one trial's proposals. A seeded sampler that is restarted would repeat itself."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{number}".encode()).digest()[:4], "big")


def grid(space: SearchSpace, options: AutoMLOptions) -> list[dict[str, Any]]:
    """Every combination of parameter values, in an order that is a function of the seed."""
    axes: list[list[Any]] = [
        _points(parameter, options.grid_points) for parameter in space.parameters
    ]
    names = [parameter.name for parameter in space.parameters]
    if math.prod(len(axis) for axis in axes) > 100_000:
        raise UsageError(
            "the grid is too large",
            field="automl.grid_points",
            got=options.grid_points,
            expected="at most 100,000 combinations",
            hint="name fewer parameters, lower grid_points, or leave sampler out",
        )
    points = [dict(zip(names, values, strict=True)) for values in itertools.product(*axes)]
    random.Random(trial_seed(options.seed, -1)).shuffle(points)
    return points


def _points(parameter: Parameter, count: int) -> list[Any]:
    if parameter.kind == "categorical":
        return list(parameter.choices)
    assert parameter.low is not None and parameter.high is not None
    shares = [i / (count - 1) for i in range(count)]
    if parameter.log:
        raw = [
            math.exp(
                math.log(parameter.low)
                + share * (math.log(parameter.high) - math.log(parameter.low))
            )
            for share in shares
        ]
    else:
        raw = [parameter.low + share * (parameter.high - parameter.low) for share in shares]
    return list(dict.fromkeys(parameter.nearest(value) for value in raw))


def grid_size(space: SearchSpace, options: AutoMLOptions, auto: bool = False) -> int | None:
    """Trials of a grid search, trial 0 included; None under another sampler.

    Args:
        auto: whether trial 1 is the auto recipe.
    """
    return 1 + auto + len(grid(space, options)) if options.sampler == "grid" else None
