"""How many processes and which devices a job of a bundle gets, and its command."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from mae_skill.bundle import Bundle
from mae_skill.dotted import flatten, get_dotted
from mae_skill.errors import NotFoundError, SpecError, UsageError

from mae_sdk.jobs.command_words import PLACE, fill, places, plain_only
from mae_sdk.jobs.config_file import SPEC, require_toml, require_toml_values
from mae_sdk.jobs.records import Launch
from mae_sdk.jobs.root import Root
from mae_sdk.plan.automl_policy import stated_metric
from mae_sdk.plan.command import Command, command_of
from mae_sdk.plan.request import Request
from mae_sdk.run.platform import Resources
from mae_sdk.run.process_group import several_tasks


class Shape(NamedTuple):
    """The processes of a job and its devices.

    Attributes:
        devices: names that the supervisor reserves `device_count` of; empty without GPUs, and where
            the platform's engine allots them.
    """

    processes: int
    devices: list[str]
    device_count: int


def device_key(info: Mapping[str, Any], action: str, spec: Mapping[str, Any]) -> str | None:
    """The spec key that holds the number of devices of `action`.

    It is the bundle's ``gpu_spec_key``, in the action's own section if it has one. An action whose
    section has a ``gpu_id`` takes that device and counts none.
    """
    key = info.get("gpu_spec_key")
    if not isinstance(key, str):
        return None
    own = ".".join([action, *key.split(".")[1:]])
    if get_dotted(spec, own) is not None:
        return own
    takes_one = get_dotted(spec, f"{action}.gpu_id") is not None
    if get_dotted(spec, key) is None or takes_one:
        return None
    return None if info.get("validator") and action not in key.split(".") else key


def gpu_ids_key(info: Mapping[str, Any], action: str, spec: Mapping[str, Any]) -> str | None:
    """The field beside the number of devices that names them."""
    key = device_key(info, action, spec)
    name = f"{key.rpartition('.')[0]}.gpu_ids" if key else None
    return name if name and isinstance(get_dotted(spec, name), list) else None


def shape(
    info: Mapping[str, Any], action: str, spec: Mapping[str, Any], resources: Resources
) -> Shape:
    """The processes and devices of a job on a platform with these resources.

    Raises:
        SpecError: the spec names a device that is not there.
    """
    key = device_key(info, action, spec)
    section = key.rpartition(".")[0] if key else action
    ids = get_dotted(spec, f"{section}.gpu_ids") or []
    chosen = [item for item in ids if isinstance(item, int)] if isinstance(ids, list) else []
    wanted = max(
        _count(get_dotted(spec, key, 1), key, resources) if key else 1,
        len(ids) if isinstance(ids, list) else 1,
    )

    distributed = bool((info["actions"][action] or {}).get("distributed"))
    word = get_dotted(spec, f"{section}.accelerator") or get_dotted(spec, "train.accelerator")
    on_cpu = word == "cpu" or (action == "export" and bool(get_dotted(spec, "export.on_cpu")))
    gpus = 0 if on_cpu else wanted if resources.gpus is None else resources.gpus
    processes = wanted if distributed and (gpus or word == "cpu") else 1
    if not gpus or not key:
        return Shape(processes, [], 0)

    # Ids that just count from 0 mean "this many"; others name devices.
    named = chosen if chosen != list(range(len(chosen))) and len(chosen) >= wanted else []
    if any(item >= gpus for item in named) and resources.gpus is not None:
        raise SpecError(
            "no such device",
            field=f"{section}.gpu_ids",
            got=named,
            expected=f"indices below {gpus}: the devices of the platform",
        )
    names = list(resources.gpu_names)
    devices = [names[item] for item in named] if named and names else names
    if wanted > gpus and not distributed:
        raise SpecError(
            "more devices than there are",
            field=key,
            got=wanted,
            expected=f"at most {gpus}: the devices of the platform",
        )
    # A runner that is one process and no rank of ours starts its own workers: it needs them all.
    return Shape(processes, devices, min(wanted, gpus))


def _count(value: Any, key: str, resources: Resources) -> int:
    """A number of devices; -1 is all of them.

    Raises:
        SpecError: it is no such number.
    """
    if value in (None, "", 0):
        return 1
    if value == -1:
        return resources.gpus or 1
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value < 1 or value % 1:
        raise SpecError("not a number of devices", field=key, got=value, expected="a whole number")
    return int(value)


def nodes_of(
    info: Mapping[str, Any],
    action: str,
    spec: Mapping[str, Any],
    environment: Mapping[str, str],
) -> int:
    """How many machines take part: the spec's, or an orchestrator's, whichever are more.

    It counts them in ``WORLD_SIZE``. Beside ``RANK`` that counts processes, each of which would
    start a job of its own: then it is taken for machines too.
    """
    if not (info["actions"][action] or {}).get("distributed"):
        return 1
    key = device_key(info, action, spec)
    asked = get_dotted(spec, f"{key.rpartition('.')[0]}.num_nodes") if key else None
    named = environment.get("WORLD_SIZE", "")
    return max(1, asked if isinstance(asked, int) else 1, int(named) if named.isdigit() else 1)


def only_one_node(action: str, nodes: int) -> UsageError:
    """Why a job is no run over several nodes, and what to start instead."""
    return UsageError(
        f"`mae run` starts a job on one machine, not on {nodes}",
        field=f"{action}.num_nodes",
        got=nodes,
        expected="one run over several nodes is started in the foreground, on each of them",
        hint=f"on every node, with K = 0 … {nodes - 1}: WORLD_SIZE={nodes} NODE_RANK=K "
        f"MASTER_ADDR=HOST_OF_NODE_0 MASTER_PORT=29500 mae {action} -e SPEC.yaml "
        f"{action}.num_nodes={nodes} results_dir=FOLDER_THAT_ALL_SEE; or {action}.num_nodes=1 and "
        "no WORLD_SIZE",
    )


def task_of_several(request: Request) -> UsageError | None:
    """Why one of several tasks of a launcher starts no job; with one key all get the same job, and
    with one shared study each is a worker of it."""
    shares = "storage" in request.automl and "study" in request.automl
    if request.idempotency_key is not None or shares:
        return None
    environment = {**os.environ, **{name: str(value) for name, value in request.env.items()}}
    return several_tasks(
        environment,
        "start a job of its own",
        "start one task, the job starts its ranks; or give all tasks one idempotency_key",
    )


def too_many_nodes(action: str, nodes: int, most: int) -> SpecError:
    """More nodes than the platform can give one job."""
    return SpecError(
        f"there {'is 1 node' if most == 1 else f'are {most} nodes'} for a job, not {nodes}",
        field=f"{action}.num_nodes",
        got=nodes,
        expected=f"at most {most}",
        hint=f"set {action}.num_nodes={most}; a machine that --on names: --on …,nodes={nodes}",
    )


def _folders_of_files(spec: Mapping[str, Any], job_dir: Path) -> list[str]:
    """The folders below the job's of the files that a spec has there: not every runner makes them
    before it opens a file."""
    found = set()
    for value in flatten(spec).values():
        if isinstance(value, str) and value.startswith(f"{job_dir}/") and Path(value).suffix:
            found.add(str(Path(value).parent.relative_to(job_dir)))
    return sorted(found - {"."})


class Prepared(NamedTuple):
    """What a job's record says of its command on any machine.

    Attributes:
        words: those of `command`, with the places of the job filled in.
        result, metric_file: below the job's folder.
    """

    command: Command
    words: list[str]
    result: Any
    metric_file: Any


def prepared(bundle: Bundle, action: str, spec: Mapping[str, Any], job_dir: Path) -> Prepared:
    """The command of a job and its files. What it refuses, every plan of this spec refuses, so the
    score of a bundle asks it too.

    Raises:
        SpecError, DependencyError: as `launch_record`.
    """
    entry = bundle.action(action)
    command = command_of(bundle, action, spec)
    if command.config.endswith(".toml"):
        require_toml()
        require_toml_values(spec)
    result, metric_file = (
        _below(entry.get(key), f"actions.{action}.{key}") for key in ("result", "metric_file")
    )
    values = places(job_dir, command.config)
    plain_only(command.made, values)
    words = [fill(word, values) for word in command.words]
    return Prepared(command, words, result, metric_file)


def launch_record(
    bundle: Bundle,
    action: str,
    spec: Mapping[str, Any],
    root: Root,
    job_id: str,
    job_dir: Path,
    resources: Resources,
) -> Launch:
    """The ``launch`` part of job.json for a plain job.

    Raises:
        SpecError: the bundle's command cannot be read, or its format cannot hold the spec.
        DependencyError: what writes the runner's configuration is not installed.
    """
    entry = bundle.action(action)
    command, words, result, metric_file = prepared(bundle, action, spec, job_dir)
    record: Launch = {
        "command": words,
        "result": result,
        "cwd": command.cwd or str(Path.cwd()),
        "grace_seconds": float(entry["grace_seconds"])
        if isinstance(entry.get("grace_seconds"), (int, float))
        else 30.0,
    }
    if command.of_spec is not None:
        record["words"] = command.of_spec
    if command.config != SPEC:
        record["config"] = command.config
    if isinstance(metric_file, str):
        record["metric_file"] = metric_file
    if (stated := stated_metric(bundle, action)) is not None:
        record["best"] = dict(zip(("metric", "direction"), stated, strict=True))
    if not entry.get("distributed"):
        record["spawns"] = True
        if folders := _folders_of_files(spec, job_dir):
            record["folders"] = folders
    if promised := _files_promised(entry, spec, job_dir):
        record["outputs"] = promised
    record["processes"], record["devices"], record["device_count"] = shape(
        bundle.info, action, spec, resources
    )
    if root.remote:
        record["remote"] = root.job_url(job_id)
        record["upload_excludes"] = list(entry.get("upload_excludes") or [])
    return record


def _files_promised(
    entry: Mapping[str, Any], spec: Mapping[str, Any], job_dir: Path
) -> dict[str, str]:
    """The files in the job's folder that an entry says are outputs, and not optional ones."""
    outputs = entry.get("outputs")
    found: dict[str, str] = {}
    for key, row in outputs.items() if isinstance(outputs, Mapping) else ():
        value = get_dotted(spec, str(key))
        is_file = isinstance(row, Mapping) and row.get("type") == "file"
        if not is_file or row.get("optional") is True or not isinstance(value, str):
            continue
        path = Path(value)
        if path != job_dir and path.is_relative_to(job_dir):
            found[str(key)] = path.relative_to(job_dir).as_posix()
    return found


def _below(name: Any, field: str) -> Any:
    """The name of a job's file below its folder, which placeholders may lead to.

    Raises:
        SpecError: it leads out of that.
    """
    if isinstance(name, str):
        name = name.removeprefix("{results_dir}/").removeprefix("{job_dir}/")
    if match := PLACE.search(str(name or "")):
        raise SpecError(
            "a placeholder that is not filled in here",
            field=field,
            got=match[0],
            expected="{results_dir}/ or {job_dir}/ at its beginning, or a plain path below the "
            "job's folder",
        )
    path = PurePosixPath(str(name or ""))
    if path.is_absolute() or ".." in path.parts:
        raise SpecError(
            "the file is outside the job's folder",
            field=field,
            got=name,
            expected="a path below the job's folder, such as metrics.json",
        )
    return name


def machine_notes(bundle: Bundle, action: str, launch: Launch, resources: Resources) -> list[Any]:
    """What a plan says of a command on the machine where it will run."""
    entry = bundle.action(action)
    if not resources.here:
        return []
    found: list[Any] = []
    program = launch["command"][0]
    if shutil.which(program, path=os.environ.get("PATH")) is None:
        image = entry.get("container_image") or bundle.info.get("container_image")
        found.append(
            NotFoundError(
                "the program of this action is not installed here",
                field=f"actions.{action}.command",
                got=program,
                hint=f"the bundle names the image {image}" if image else "install it first",
            )
        )
    names = bundle.info.get("required_credentials")
    missing = [
        name
        for name in (names if isinstance(names, list) else ())
        if isinstance(name, str) and not os.environ.get(name)
    ]
    if missing:
        found.append(
            UsageError(
                "the bundle needs credentials that are not set",
                field="required_credentials",
                got=missing,
                expected="variables of the environment, or --env",
            )
        )
    return found
