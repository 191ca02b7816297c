"""How long a planned run takes: measured now, recorded from earlier jobs, or estimated.

A bundle takes part by files alone: ``actions.<a>.measure_command`` times some steps of the run and
prints a JSON object as its last line (``seconds_per_step``, ``startup_seconds``, and what else it
knows); ``cost_keys`` names the spec fields that decide what a step costs; its estimator may give
``seconds_per_step`` from the work of a step, and ``seconds``: what the run takes beside its steps
(``start, validation, reconstructions, checkpoints, rest``).

A time is a likely value with a range, whose ends are those of its parts: each may be off by a
factor that depends on where it is from.
"""

from __future__ import annotations

import contextlib
import hashlib
import heapq
import json
import os
import shlex
import signal
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mae_skill.dotted import get_dotted
from mae_skill.errors import MaeError, UsageError
from mae_skill.reader import dump_yaml

from mae_sdk import files
from mae_sdk.automl.pruner import shares_of_epochs
from mae_sdk.data.progress import say
from mae_sdk.jobs import records
from mae_sdk.jobs.command_words import fill
from mae_sdk.jobs.records import Launch
from mae_sdk.jobs.root import Root
from mae_sdk.jobs.secrets import known, redact, secret_values
from mae_sdk.jobs.status import read_status
from mae_sdk.plan.plan import Plan
from mae_sdk.run.devices import CoreShare
from mae_sdk.run.platform import DEFAULT, Resources
from mae_sdk.run.process import same_host
from mae_sdk.run.process_group import child_environment

MEASURE_SECONDS = 300.0
_LOOK_BACK = 50  # newest jobs that are asked what a step took

RANGES = {
    "analytic": (0.4, 3.0),
    "recorded": (0.8, 1.4),
    "measured": (0.8, 1.5),
    "start": (0.5, 2.5),
    "warm": (0.3, 3.0),
    "beside": (0.3, 3.0),
}
"""Smallest and largest factor between an estimate and what was seen, by where it is from. What runs
on the same machine at the same time is within them."""

WARM_SECONDS = 1.0
"""Until the first step of a trial that forks from a process which has loaded the libraries."""


def cost_key(
    info: Mapping[str, Any],
    action: str,
    spec: Mapping[str, Any],
    launch: Launch,
    resources: Resources,
) -> str | None:
    """A digest of what decides the time of a step: equal for runs whose steps cost the same there.

    None where the bundle does not say.
    """
    keys = (info.get("cost_keys") or {}).get(action)
    if not isinstance(keys, list):
        return None
    shape = [
        launch.get("processes"),
        launch.get("device_count"),
        None if launch.get("device_count") else resources.cores,
    ]
    values = {str(key): get_dotted(spec, str(key)) for key in keys}
    return hashlib.sha256(
        json.dumps([values, shape], sort_keys=True, default=str).encode()
    ).hexdigest()[:16]


def time_of(
    info: Mapping[str, Any], plan: Plan, *, measured: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The ``time`` part of a plan's estimates, in seconds.

    ``seconds_per_step``, ``seconds_per_epoch`` (training alone), ``parts`` of the whole run and
    their sum ``seconds_total`` with ``seconds_total_range``; of a study those of its longest trial,
    and ``seconds_study`` with ``seconds_study_range``, from every trial pruned as early as can be
    to none pruned; ``basis``. What is not known is left out.

    Args:
        measured: what `measure` found.
    """
    step, kind, basis = _step(info, plan, measured)
    steps = steps_of_a_trial(info, plan)
    parts = {name: float(value) for name, value in (plan.seconds.get("seconds") or {}).items()}
    if measured is not None and isinstance(measured.get("startup_seconds"), (int, float)):
        parts["start"] = float(measured["startup_seconds"])
    if step is None and (steps or not parts):
        unknown = "no such job has run there and the device is unknown; --measure times some steps"
        return {"basis": f"not known: {unknown}"}

    found: dict[str, Any] = {}
    epochs = _epochs(info, plan)
    if step is not None:
        found["seconds_per_step"] = round(step, 5)
        if steps:
            found["seconds_per_epoch"] = round(step * steps, 2)
        if not (steps and epochs):
            return {**found, "basis": basis}  # the data is not counted
        parts["training"] = step * steps * epochs

    total, low, high = _sum(parts, kind)
    found["parts"] = {name: round(value, 1) for name, value in parts.items()}
    found["seconds_total"] = round(total, 1)
    found["seconds_total_range"] = [round(low, 1), round(high, 1)]
    if plan.study is not None and plan.study["options"].get("max_trials"):
        found |= _study(plan, parts, kind, epochs or 1)
    return {**found, "basis": basis}


def steps_of_a_trial(info: Mapping[str, Any], plan: Plan) -> int | None:
    """Optimizer steps per epoch of a run, or of those trials of a study that its search varies."""
    from mae_sdk.automl.setup import keys_of, spec_of_trials

    if plan.study is None:
        return plan.steps_per_epoch
    spec = spec_of_trials(plan.study)
    keys = keys_of(info, spec)
    batch = get_dotted(spec, keys.get("batch", ""))
    accumulate = int(get_dotted(spec, keys.get("accumulate", "")) or 1)
    processes = int(plan.launch.get("processes") or 1) * plan.nodes
    if not isinstance(batch, int) or plan.facts.images is None:
        return None
    return -(-plan.facts.images // (batch * processes * accumulate))


def _step(
    info: Mapping[str, Any], plan: Plan, measured: Mapping[str, Any] | None
) -> tuple[float | None, str, str]:
    """Seconds of an optimizer step, the word for where that is from, and the sentence."""
    together = _together(plan)
    crowd = f"; {together} trials share the cores" if together > 1 else ""
    if measured is not None:
        # One process was alone there; those of the run share the cores.
        sharing = 1 if plan.launch.get("device_count") else int(plan.launch.get("processes") or 1)
        step = float(measured["seconds_per_step"]) * sharing * together
        where = measured.get("device") or "this machine"
        basis = f"measured: {measured.get('steps', 'some')} steps of one process on {where}"
        basis += f", times {sharing} processes that share its cores" if sharing > 1 else ""
        return step, "measured", basis + crowd
    recorded, basis = _recorded(info, plan)
    if recorded is not None:
        return recorded * together, "recorded", basis + crowd
    analytic = plan.seconds.get("seconds_per_step")
    basis = str(plan.seconds.get("seconds_basis") or "analytic")
    return None if analytic is None else analytic * together, "analytic", basis + crowd


def _together(plan: Plan) -> int:
    """Trials that share the cores of a machine without GPUs; else 1."""
    if plan.study is None or plan.launch.get("device_count"):
        return 1
    return max(1, int(plan.study["concurrency"] or 1))


def _sum(parts: Mapping[str, float], kind: str) -> tuple[float, float, float]:
    """The likely time of the parts together, the shortest and the longest.

    Args:
        kind: where the time of the training comes from.
    """
    low = high = 0.0
    for name, value in parts.items():
        name = kind if name == "training" else name if name in RANGES else "beside"
        low, high = low + value * RANGES[name][0], high + value * RANGES[name][1]
    return sum(parts.values()), low, high


def _study(plan: Plan, parts: Mapping[str, float], kind: str, epochs: int) -> dict[str, Any]:
    """``seconds_study``, its range, and ``seconds_study_at_most``: likely, if nothing is pruned."""
    from mae_sdk.automl.options import parse
    from mae_sdk.automl.proposals import grid_size
    from mae_sdk.automl.space import SearchSpace

    assert plan.study is not None
    options = parse(plan.study["options"])
    least, likely = shares_of_epochs(options, len(plan.study["objectives"]), epochs)
    size = grid_size(SearchSpace.from_dict(plan.study["space"]), options)
    trials = options.max_trials if size is None else min(options.max_trials, size)
    together = max(1, int(plan.study["concurrency"] or 1))
    rounds = -(-trials // together)
    # Patience may end the study as soon as so many trials in a row are no better.
    fewest = -(-min(trials, (options.plateau or trials) + 1) // together)
    cold = {"start": parts["start"]} if "start" in parts else {}
    trial = {name: value for name, value in parts.items() if name != "start"}
    if cold:
        warm = options.warm and int(plan.launch.get("processes") or 1) == 1
        trial |= {"warm": WARM_SECONDS} if warm else cold

    (whole, short, long), (first, soon, late) = _sum(trial, kind), _sum(cold, kind)
    high = rounds * long + late
    if options.timeout is not None:
        high = min(high, options.timeout + late)
    return {
        "seconds_study": round(min(rounds * whole * likely + first, high), 1),
        "seconds_study_range": [round(min(fewest * short * least + soon, high), 1), round(high, 1)],
        "seconds_study_at_most": round(rounds * whole + first, 1),
    }


def _epochs(info: Mapping[str, Any], plan: Plan) -> int | None:

    from mae_sdk.automl.setup import keys_of, spec_of_trials

    spec = plan.spec if plan.study is None else spec_of_trials(plan.study)
    key = keys_of(info, spec).get("epochs")
    value = get_dotted(spec, key) if key else None
    return value if isinstance(value, int) else None


def _recorded(info: Mapping[str, Any], plan: Plan) -> tuple[float | None, str]:
    """The median step of the newest jobs of this results root that ran there and cost the same."""
    wanted = cost_key(info, plan.action, plan.spec, plan.launch, plan.resources)
    if wanted is None or Root(plan.results_root).remote:
        return None, ""

    steps: list[float] = []
    jobs = 0
    for folder in _newest(plan.results_root, plan.action):
        try:
            record = records.read_record(folder)
        except MaeError:
            continue
        if record.get("cost_key") != wanted or not _ran_there(record, plan):
            continue

        values = [line.get("time_per_step") for line in read_status(folder / "status.json")]
        numbers = [float(value) for value in values if isinstance(value, (int, float))]
        steps += numbers
        jobs += bool(numbers)

    if not steps:
        return None, ""
    plural = "s" if jobs > 1 else ""
    return statistics.median(steps), f"recorded: {jobs} earlier job{plural} of the same shape here"


def _ran_there(record: records.JobRecord, plan: Plan) -> bool:
    """Whether a job ran where the plan's job will: same platform, and same machine if local."""

    if (record.get("platform") or DEFAULT) != plan.request.platform:
        return False
    process = records.last_attempt(record)["process"]
    return not plan.resources.here or (process is not None and same_host(process))


def _newest(root: str, action: str) -> list[Path]:
    """The folders of the jobs of an action that changed last."""
    found: list[tuple[float, str]] = []
    try:
        with os.scandir(root) as entries:
            for entry in entries:
                if entry.name.startswith(f"{action}-") and "." not in entry.name:
                    # One that leads nowhere, or is another user's, hides no other.
                    with contextlib.suppress(OSError):
                        found.append((entry.stat().st_mtime, entry.path))
    except OSError:
        return []
    return [Path(path) for _, path in heapq.nlargest(_LOOK_BACK, found)]


def measure(
    info: Mapping[str, Any], plan: Plan, timeout: float = MEASURE_SECONDS
) -> dict[str, Any]:
    """Run the bundle's measurement of the planned spec in a folder that goes away afterward.

    Raises:
        UsageError: the bundle cannot measure this action, the job will run on another machine, or
            the measurement ended in an error, which the message reports.
    """

    command = str(((info.get("actions") or {}).get(plan.action) or {}).get("measure_command") or "")
    if not command:
        raise UsageError(
            "the bundle cannot measure this action",
            field="measure",
            got=plan.action,
            expected="an action with measure_command",
        )
    if not plan.resources.here:
        raise UsageError(
            "steps can be timed only on this machine",
            field="measure",
            got=plan.request.platform,
            hint="plan without --measure",
        )

    environment = {
        **os.environ,
        **{name: str(value) for name, value in plan.request.env.items()},
        **plan.secrets,
    }
    try:
        with files.temporary_folder("mae-measure-") as folder:
            values = {
                "python": sys.executable,
                "config_path": str(folder / "spec.yaml"),
                "job_dir": str(folder),
            }
            (folder / "spec.yaml").write_text(dump_yaml(plan.spec), encoding="utf-8")
            words = [fill(word, values) for word in shlex.split(command)]
            environment = child_environment(environment, words)
            with _threads_of_a_job(plan.launch, environment):
                code = _run(words, folder, environment, timeout)
            return _read(folder, code, timeout, environment)
    except OSError as error:
        raise UsageError(
            f"the measurement could not be started: {error}", field="measure", got=command
        ) from None


def measured_once(info: Mapping[str, Any], plan: Plan) -> dict[str, Any]:
    """`measure`, or what it found on this machine before, for a run whose steps cost the same.

    Raises:
        UsageError: as `measure`.
    """
    key = cost_key(info, plan.action, plan.spec, plan.launch, plan.resources)
    name = hashlib.sha256(f"{files.host_name()} {key}".encode()).hexdigest()[:16]
    path = files.cache_home() / "steps" / f"{name}.json"
    if key is not None:
        with contextlib.suppress(OSError, ValueError):
            return dict(files.read_json(path))

    say(f"timing some steps of {plan.action}, to keep to the budget")
    found = measure(info, plan)
    if key is not None:
        with contextlib.suppress(OSError):  # a cache that cannot be written serves as well
            files.write_json(path, found)
    return found


def _run(
    words: list[str], folder: Path, environment: Mapping[str, str], timeout: float
) -> int | None:
    """Run the command with its output in `folder`; its exit code, or None when it took too long."""
    with (folder / "out").open("wb") as out, (folder / "err").open("wb") as err:
        process = subprocess.Popen(
            words,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            start_new_session=True,
        )
        try:
            return process.wait(timeout)
        except subprocess.TimeoutExpired:
            return None
        finally:
            _end(process)


@contextlib.contextmanager
def _threads_of_a_job(launch: Launch, environment: dict[str, str]) -> Iterator[None]:
    """As many threads as a job that started now would get."""

    share = CoreShare()
    if not launch.get("devices"):
        with contextlib.suppress(OSError):
            environment.update(share.join().settings(environment))
    try:
        yield
    finally:
        share.release()


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill what is left of the measurement, its loader's workers included."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:  # Windows
            process.kill()
    process.wait()


def _read(
    folder: Path, code: int | None, timeout: float, environment: Mapping[str, str]
) -> dict[str, Any]:

    lines = (folder / "out").read_text(errors="replace").strip().splitlines()
    try:
        found = json.loads(lines[-1]) if lines else {}
    except ValueError:
        found = {}
    found = found if isinstance(found, dict) else {}

    if code == 0 and isinstance(found.get("seconds_per_step"), (int, float)):
        return found
    if code is None:
        raise UsageError(
            "the measurement did not end in time",
            field="measure",
            got=f"over {timeout:g} s",
            hint="plan without --measure",
        )

    error = found.get("error")
    if isinstance(error, dict):
        raise UsageError(
            f"the measured run failed: {error.get('message')}",
            field=error.get("field") or "measure",
            hint=error.get("hint"),
        )
    printed = (folder / "err").read_text(errors="replace").strip().splitlines()
    last = redact(
        printed[-1] if printed else "it printed nothing", [*secret_values(environment), *known()]
    )
    raise UsageError(
        f"the measured run ended with exit code {code}: {last[:300]}", field="measure", got=code
    )
