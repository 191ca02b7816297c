"""``<job>/automl/study.json``: everything that a controller needs, written once when the AutoML job
is created.

The launcher of jobs calls `write`; the plan shows the same `describe`. Nothing here is secret: the
environment travels with the process.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mae_skill.dotted import MISSING, get_dotted, set_dotted
from mae_skill.origin import Origin, OriginKind

from mae_sdk.automl.metrics import objectives, unstated
from mae_sdk.automl.options import AutoMLOptions, parse
from mae_sdk.automl.space import build
from mae_sdk.jobs.records import StudyRecord

STUDY_NAME = "study.json"
_KEYS = {"batch": "batch_size", "epochs": "num_epochs"}


def keys_of(info: Mapping[str, Any], spec: Mapping[str, Any]) -> dict[str, str]:
    """Dotted keys of ``batch``, ``accumulate``, ``epochs``, ``keep`` (newest checkpoints that
    stay): the bundle's shorthand keys and ``automl_keys``."""
    short = info.get("spec_shorthand_keys") or {}
    found = {
        "accumulate": "train.accum_grad_batches",
        "epochs": "train.num_epochs",
        "batch": "dataset.batch_size",
    }
    found["keep"] = "train.keep_checkpoints"
    found.update({word: str(short[name]) for word, name in _KEYS.items() if name in short})
    found.update(info.get("automl_keys") or {})
    return {
        word: key for word, key in found.items() if get_dotted(spec, key, MISSING) is not MISSING
    }


def describe(
    schema: Mapping[str, Any],
    spec: Mapping[str, Any],
    provenance: Mapping[str, Origin] | None,
    options: AutoMLOptions | Mapping[str, Any] | None,
    *,
    info: Mapping[str, Any] | None = None,
    devices: Sequence[Any] | None = None,
    processes: int = 1,
) -> StudyRecord:
    """The study as a plan shows it; the epochs of its ``spec`` are bounded by ``max_epochs``.

    Raises:
        SpecError: options, ranges or metric are wrong; all problems of one kind together. Or there
            is nothing to search.
        UsageError: a grid is too large.
    """
    from mae_skill.errors import SpecError, UsageError

    if not isinstance(options, AutoMLOptions):
        options = parse(options)
    keys = keys_of(info or {}, spec)
    bounded = _bounded(spec, keys, options)
    notes, key = [], keys.get("keep")
    origin = (provenance or {}).get(key or "")
    unset = origin is None or origin.kind in OriginKind.unset()
    if key and get_dotted(bounded, key, MISSING) is None and unset:
        set_dotted(bounded, key, 1)
        notes.append(
            f"every trial keeps its best and its newest checkpoint alone; {key} says otherwise"
        )
    space = build(schema, bounded, provenance, options)
    if not space.knobs:
        reasons = (
            "; ".join(f"{name}: {reason}" for name, reason in space.left_out.items())
            or "the schema names no parameter"
        )
        problem = UsageError(
            "nothing is left to search",
            field="automl.parameters",
            got=reasons,
            hint="name parameters=, or use automl_policy=off",
        )
        raise SpecError("AutoML has no search space", problems=[problem])
    found = objectives(schema, bounded, options)
    for metric, reason in unstated(
        schema, bounded, [objective.metric for objective in found]
    ).items():
        notes.append(
            f"{metric} is a metric of other runs ({reason}); the study ends with trial 0 where that does not report it"
        )
    notes += _in_vain(options, get_dotted(bounded, keys["epochs"]) if "epochs" in keys else None)
    if options.sampler == "grid":
        from mae_sdk.automl.study import grid_size

        notes.append(
            f"the grid has {grid_size(space, options)} trials, trial 0 included; max_trials is {options.max_trials}"
        )
    concurrency = options.concurrency or max(1, len(devices or ()) // max(1, processes))
    return {
        "options": options.to_dict(),
        "objectives": [asdict(objective) for objective in found],
        "space": {**space.to_dict(), "notes": [*space.notes, *notes]},
        "keys": keys,
        "concurrency": concurrency,
        "spec": bounded,
    }


def _in_vain(options: AutoMLOptions, epochs: Any) -> list[str]:
    """A note for every option that was given and changes nothing beside the others."""
    pruner = "none" if len(options.metric) > 1 else options.pruner or "successive_halving"
    rules = {
        "grid_points": (options.sampler != "grid", "the sampler is not grid"),
        "study": (options.storage is None, "the study has no shared storage"),
        "worker_timeout": (options.storage is None, "the study has no shared storage"),
        "reduction_factor": (
            pruner not in ("successive_halving", "hyperband"),
            f"the pruner is {pruner}",
        ),
        "min_epochs": (pruner == "none", "the pruner is none"),
        "plateau": (len(options.metric) > 1, "there are several metrics"),
    }
    default = AutoMLOptions()
    found = [
        f"{name} has no effect: {why}"
        for name, (vain, why) in rules.items()
        if vain and getattr(options, name) != getattr(default, name)
    ]
    if (
        options.min_epochs is not None
        and pruner != "none"
        and isinstance(epochs, int)
        and options.min_epochs >= epochs
    ):
        found.append(
            f"min_epochs={options.min_epochs} leaves no room for pruning in runs of {epochs} epochs"
        )
    return found


def _bounded(
    spec: Mapping[str, Any], keys: Mapping[str, str], options: AutoMLOptions
) -> dict[str, Any]:
    import copy

    out = copy.deepcopy(dict(spec))
    key = keys.get("epochs")
    if (
        key
        and options.max_epochs is not None
        and isinstance(get_dotted(out, key), int)
        and get_dotted(out, key) > options.max_epochs
    ):
        set_dotted(out, key, options.max_epochs)
    return out


def write(
    job_dir: Path,
    study: Mapping[str, Any],
    launch: Mapping[str, Any],
    *,
    action: str = "train",
    warm_command: Sequence[str] = (),
) -> Path:
    """Write what `describe` gave, with the child jobs' ``launch`` record.

    Args:
        launch: as in job.json; ``{config_path} {job_dir} {job_id} {python}`` are filled in for
            every child in ``command`` (a list) and in every text, such as ``remote``.
        warm_command: the bundle's warm start, with ``{socket}``; empty: trials start cold.
    """
    from mae_sdk.files import write_json

    path = job_dir / "automl" / STUDY_NAME
    write_json(
        path,
        {**study, "launch": dict(launch), "action": action, "warm_command": list(warm_command)},
    )
    return path
