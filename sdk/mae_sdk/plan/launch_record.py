"""How many processes and which devices a job of a bundle gets, and its command."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mae_skill.dotted import get_dotted
from mae_skill.errors import SpecError, UsageError

from mae_sdk.jobs.records import Launch
from mae_sdk.jobs.root import Root
from mae_sdk.run.platform import Resources


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

    It is the bundle's ``gpu_spec_key``, in the action's own section if it has one.
    """
    key = info.get("gpu_spec_key")
    if not isinstance(key, str):
        return None
    own = ".".join([action, *key.split(".")[1:]])
    for name in (own, key):
        if get_dotted(spec, name) is not None:
            return name if name == own or action in key.split(".") else None
    return None


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
        int(get_dotted(spec, key, 1) or 1) if key else 1, len(ids) if isinstance(ids, list) else 1
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
    return Shape(processes, devices, min(wanted if distributed else 1, gpus))


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


def too_many_nodes(action: str, nodes: int, most: int) -> SpecError:
    """More nodes than the platform can give one job."""
    return SpecError(
        f"the platform has {most} nodes for a job, not {nodes}",
        field=f"{action}.num_nodes",
        got=nodes,
        expected=f"at most {most}",
    )


def launch_record(
    info: Mapping[str, Any],
    action: str,
    spec: Mapping[str, Any],
    root: Root,
    job_id: str,
    job_dir: Path,
    resources: Resources,
) -> Launch:
    """The ``launch`` part of job.json for a plain job.

    Raises:
        SpecError: the bundle's command cannot be read.
    """
    entry = info["actions"][action] or {}
    places = {
        "{python}": sys.executable,
        "{config_path}": str(job_dir / "spec.yaml"),
        "{job_dir}": str(job_dir),
    }
    record: Launch = {
        "command": [_fill(word, places) for word in words(entry, action)],
        "result": entry.get("result"),
        "cwd": str(Path.cwd()),
        "grace_seconds": float(entry.get("grace_seconds") or 30.0),
    }
    record["processes"], record["devices"], record["device_count"] = shape(
        info, action, spec, resources
    )
    if root.remote:
        record["remote"] = root.job_url(job_id)
        record["upload_excludes"] = list(entry.get("upload_excludes") or [])
    return record


def words(entry: Mapping[str, Any], action: str) -> list[str]:
    """The command of an action, split as a shell would; no shell runs it.

    Raises:
        SpecError: there is none, or its quotes do not close.
    """
    try:
        found = shlex.split(str(entry.get("command") or ""))
    except ValueError as error:
        raise SpecError(
            "the command cannot be split",
            field=f"actions.{action}.command",
            got=entry.get("command"),
            hint=str(error),
        ) from None
    if not found:
        raise SpecError(
            "the action names no command",
            field=f"actions.{action}.command",
            expected="a command with {config_path}",
        )
    return found


def _fill(word: str, places: Mapping[str, str]) -> str:
    for name, value in places.items():
        word = word.replace(name, value)
    return word
