"""The ``--automl`` keys.

`TABLE` is the one list of keys: the command line's help, the plan and the reference page read it. A key that is not in it is refused
with a did-you-mean. `parse` turns what the user gave (text or typed values) into `AutoMLOptions`.
"""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from mae_skill.errors import MaeError, SpecError, UsageError

SAMPLERS = ("tpe", "cmaes", "random", "grid", "nsga2")
PRUNERS = ("successive_halving", "hyperband", "median", "none")
DIRECTIONS = ("maximize", "minimize")

_ALIASES = {
    "cma-es": "cmaes",
    "cma_es": "cmaes",
    "nsga-ii": "nsga2",
    "nsgaii": "nsga2",
    "asha": "successive_halving",
    "max": "maximize",
    "maximise": "maximize",
    "min": "minimize",
    "minimise": "minimize",
}


@dataclass(frozen=True)
class Key:
    """One row of the ``--automl`` table."""

    name: str
    type: str
    default: Any
    meaning: str


TABLE: tuple[Key, ...] = (
    Key(
        "max_trials",
        "int",
        10,
        "total number of trials, over all restarts and workers; retries of failed machines are not counted",
    ),
    Key(
        "max_epochs",
        "int | null",
        None,
        "upper bound of the epochs of every trial (null: what the spec says)",
    ),
    Key(
        "timeout",
        "seconds | text such as 90m",
        None,
        "no new trial starts after this long; running ones are cancelled",
    ),
    Key(
        "concurrency",
        "int | auto",
        "auto",
        "trials at a time (auto: the number of devices divided by the devices of a trial)",
    ),
    Key(
        "sampler",
        "|".join(SAMPLERS),
        "tpe",
        "how knobs are proposed (several metrics: nsga2 unless given)",
    ),
    Key(
        "pruner",
        "|".join(PRUNERS),
        "successive_halving",
        "which trials end early (several metrics: none)",
    ),
    Key(
        "min_epochs",
        "int | null",
        None,
        "epochs before a pruner may end a trial (null: successive halving drops the worst third after 10 % of the run's epochs and keeps "
        "one in `reduction_factor` after 40 and 60 %; Hyperband and median wait for a ninth)",
    ),
    Key(
        "reduction_factor",
        "int",
        3,
        "successive halving and Hyperband keep one trial in this many at every rung; successive halving decides once so many got there",
    ),
    Key(
        "seed",
        "int",
        0,
        "seed of the search; proposals are a function of it, the trial number and what has finished",
    ),
    Key(
        "metric",
        "text | list",
        None,
        "what is optimised (null: by stage); `name:direction` is accepted; a list gives a Pareto front",
    ),
    Key(
        "direction",
        "maximize|minimize | list",
        None,
        "direction of the metric; required for a metric that the bundle does not know",
    ),
    Key(
        "parameters",
        "list",
        None,
        "dotted keys to search instead of the schema's automl_default_parameters",
    ),
    Key(
        "ranges",
        "mapping",
        {},
        "key → [low, high], {low, high, log} or {choices: [...]}; `range.KEY=[low, high]` does one",
    ),
    Key(
        "plateau",
        "int | null",
        None,
        "stop after this many finished trials in a row without a better one",
    ),
    Key("grid_points", "int", 3, "points a numeric knob gets under the grid sampler"),
    Key(
        "retries",
        "int",
        2,
        "times a trial is started again after a fault of the machine or of storage",
    ),
    Key(
        "storage",
        "text | null",
        None,
        "RDB URL shared by many workers, or env:NAME of one (null: a journal file in the job folder; a path: one there)",
    ),
    Key(
        "study",
        "text | null",
        None,
        "name of the study in a shared storage (null: the job's id); workers that give the same name share it",
    ),
    Key(
        "worker_timeout",
        "seconds | text such as 10m",
        300.0,
        "shared storage: a worker that shows no sign of life for this long is given up, and its trials run again elsewhere",
    ),
    Key(
        "warm",
        "bool",
        True,
        "trials fork from a process that has the libraries loaded, where the bundle offers one",
    ),
)
_NAMES = {key.name: key for key in TABLE}


@dataclass(frozen=True)
class Objective:
    """One metric of a study with its direction (``maximize`` or ``minimize``) and where the choice came from."""

    metric: str
    direction: str
    source: str = "given"

    def better(self, a: float, b: float) -> bool:
        """Whether ``a`` is strictly better than ``b``."""
        return a > b if self.direction == "maximize" else a < b


@dataclass(frozen=True)
class AutoMLOptions:
    """The parsed ``--automl`` options; the fields are the rows of `TABLE`."""

    max_trials: int = 10
    max_epochs: int | None = None
    timeout: float | None = None
    concurrency: int | None = None
    sampler: str | None = None
    pruner: str | None = None
    min_epochs: int | None = None
    reduction_factor: int = 3
    seed: int = 0
    metric: tuple[str, ...] = ()
    direction: tuple[str, ...] = ()
    parameters: tuple[str, ...] | None = None
    ranges: Mapping[str, Any] = field(default_factory=dict)
    plateau: int | None = None
    grid_points: int = 3
    retries: int = 2
    storage: str | None = None
    study: str | None = None
    worker_timeout: float = 300.0
    warm: bool = True

    def to_dict(self) -> dict[str, Any]:
        """The options as JSON types; ``parse(options.to_dict())`` gives them back."""
        out = asdict(self)
        out["concurrency"] = "auto" if self.concurrency is None else self.concurrency
        out["metric"] = list(self.metric) or None
        out["direction"] = list(self.direction) or None
        out["parameters"] = None if self.parameters is None else list(self.parameters)
        out["ranges"] = dict(self.ranges)
        return out


def parse(given: Mapping[str, Any] | None) -> AutoMLOptions:
    """Options from ``--automl key=value`` pairs or a Python mapping (values typed or text).

    Raises:
        SpecError: one or more keys or values are wrong; all are reported together.
    """
    problems: list[MaeError] = []
    values: dict[str, Any] = {}
    ranges: dict[str, Any] = {}
    for name, raw in (given or {}).items():
        if name.startswith(("range.", "ranges.")):
            ranges[name.split(".", 1)[1]] = _typed(raw)
            continue
        if name not in _NAMES:
            near = difflib.get_close_matches(name, [*_NAMES, "range.KEY"], n=1)
            problems.append(
                UsageError(
                    "unknown AutoML option",
                    field=f"automl.{name}",
                    got=raw,
                    expected=", ".join(_NAMES),
                    hint=f"did you mean {near[0]}?"
                    if near
                    else "`range.KEY=[low, high]` sets the range of one knob",
                )
            )
            continue
        try:
            values[name] = _READERS[name](_typed(raw))
        except ValueError as error:
            problems.append(
                UsageError(
                    "wrong value",
                    field=f"automl.{name}",
                    got=raw,
                    expected=str(error) or _NAMES[name].type,
                )
            )
    if ranges:
        values["ranges"] = {**values.get("ranges", {}), **ranges}
    metrics, directions = _split_metrics(
        values.get("metric", ()), values.get("direction", ()), problems
    )
    values["metric"], values["direction"] = metrics, directions
    if len(metrics) > 1 and values.get("pruner") not in (None, "none"):
        problems.append(
            UsageError(
                "a pruner compares one metric; this study has several",
                field="automl.pruner",
                got=values["pruner"],
                expected="none",
                hint="leave pruner out, or optimise one metric",
            )
        )
    if len(metrics) > 1 and values.get("sampler") == "cmaes":
        problems.append(
            UsageError(
                "CMA-ES optimises one metric",
                field="automl.sampler",
                got="cmaes",
                expected="nsga2, tpe, random or grid",
            )
        )
    if problems:
        raise SpecError("AutoML options are wrong", problems=problems)
    return AutoMLOptions(**values)


def require_variable(storage: Any, environment: Mapping[str, str]) -> None:
    """Refuse a storage ``env:NAME`` whose variable the job would not find.

    Raises:
        UsageError: it is not set, or empty.
    """
    if (
        isinstance(storage, str)
        and storage.startswith("env:")
        and not environment.get(storage.removeprefix("env:"))
    ):
        name = storage.removeprefix("env:")
        hint = f"export it, or give the job --env {name}=URL"
        raise UsageError(
            "the variable that holds the study's database is not set",
            field="automl.storage",
            got=name,
            hint=hint,
        )


def _split_metrics(
    metrics: tuple[str, ...], directions: tuple[str, ...], problems: list[MaeError]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    names, ways = [], []
    for metric in metrics:
        name, _, way = metric.partition(":")
        names.append(name)
        if way:
            ways.append(_ALIASES.get(way.lower(), way.lower()))
            if ways[-1] not in DIRECTIONS:
                problems.append(
                    UsageError(
                        "unknown direction",
                        field="automl.metric",
                        got=metric,
                        expected="name:maximize or name:minimize",
                    )
                )
    if ways and directions:
        problems.append(
            UsageError(
                "direction given twice",
                field="automl.direction",
                got=list(directions),
                expected="once, in metric or here",
            )
        )
    ways = ways or list(directions)
    if (
        ways and len(ways) != len(names) and (names or len(ways) > 1)
    ):  # one direction alone is that of the bundle's metric
        problems.append(
            UsageError(
                "as many directions as metrics are needed",
                field="automl.direction",
                got=ways,
                expected=f"{max(1, len(names))} of maximize|minimize",
            )
        )
    if len(set(names)) != len(names):
        problems.append(
            UsageError(
                "a metric is named twice",
                field="automl.metric",
                got=names,
                expected="different metrics",
            )
        )
    return tuple(names), tuple(ways)


def _typed(raw: Any) -> Any:
    """Text from a command line as a value: JSON, or true, false and null in any case; anything else stays text."""
    if not isinstance(raw, str):
        return raw
    text = raw.strip()
    words = {"true": True, "false": False, "null": None}
    if text.lower() in words:
        return words[text.lower()]
    try:
        return json.loads(text, parse_constant=_refuse)
    except ValueError:
        return text


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not a finite number")


def _whole(minimum: int) -> Any:
    def read(value: Any) -> int:
        if (
            isinstance(value, bool)
            or not isinstance(value, (int, float))
            or not math.isfinite(value)
            or value != int(value)
            or value < minimum
        ):
            raise ValueError(f"a whole number of at least {minimum}")
        return int(value)

    return read


def _or_null(read: Any) -> Any:
    return lambda value: None if value is None else read(value)


def _seconds(value: Any) -> float:
    expected = "seconds above 0, or text such as 45s, 90m, 2h"
    if isinstance(value, str):
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smhd]?)\s*", value)
        if not match:
            raise ValueError(expected)
        value = float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}[match[2]]
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, float))
        or not math.isfinite(value)
        or value <= 0
    ):
        raise ValueError(expected)
    return float(value)


def _word(words: tuple[str, ...]) -> Any:
    def read(value: Any) -> str:
        word = _ALIASES.get(str(value).lower(), str(value).lower())
        if word not in words:
            near = difflib.get_close_matches(word, words, n=1)
            raise ValueError(
                "one of " + ", ".join(words) + (f" (did you mean {near[0]}?)" if near else "")
            )
        return word

    return read


def _concurrency(value: Any) -> int | None:
    if value is None or value == "auto":
        return None
    number: int = _whole(1)(value)
    return number


def _texts(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        text = value.strip()
        value = [
            part.strip()
            for part in (text[1:-1] if text[:1] == "[" and text[-1:] == "]" else text).split(",")
        ]
    items = value
    if not isinstance(items, (list, tuple)) or not all(
        isinstance(item, str) and item for item in items
    ):
        raise ValueError("text, or a list of text")
    return tuple(items)


def _directions(value: Any) -> tuple[str, ...]:
    return tuple(_word(DIRECTIONS)(item) for item in _texts(value))


def _mapping(value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(
            "a mapping of dotted key to [low, high], {low, high, log} or {choices: [...]}"
        )
    return {str(key): item for key, item in value.items()}


def _bool(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("true or false")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("text")
    return value


_READERS: dict[str, Any] = {
    "max_trials": _whole(1),
    "max_epochs": _or_null(_whole(1)),
    "timeout": _or_null(_seconds),
    "concurrency": _concurrency,
    "sampler": _or_null(_word(SAMPLERS)),
    "pruner": _or_null(_word(PRUNERS)),
    "min_epochs": _or_null(_whole(1)),
    "reduction_factor": _whole(2),
    "seed": _whole(0),
    "metric": lambda value: () if value is None else _texts(value),
    "direction": lambda value: () if value is None else _directions(value),
    "parameters": _or_null(_texts),
    "ranges": _mapping,
    "plateau": _or_null(_whole(1)),
    "grid_points": _whole(2),
    "retries": _whole(0),
    "storage": _or_null(_text),
    "study": _or_null(_text),
    "worker_timeout": _seconds,
    "warm": _bool,
}
