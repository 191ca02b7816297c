"""The job that another job starts from: what it left, found in its folder, on a local disk or behind a URL.

Nothing is copied here: a plan reads lists and small files only. `mae_sdk.plan.inferred_fields.fetch` brings the chosen files of a remote parent.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any

from mae_skill.dotted import flatten
from mae_skill.errors import CheckpointError, MaeError, NotFoundError, UsageError

from mae_sdk.jobs import records
from mae_sdk.jobs.checkpoints import (
    INDEX_NAME,
    CheckpointIndex,
    Choice,
    choose,
    parse_policy,
    read_index,
)
from mae_sdk.jobs.root import Root
from mae_sdk.storage import urls

CHECKPOINT, ONNX, ENGINE = "checkpoint", "onnx", "engine"
_SUFFIXES = {
    ENGINE: (".engine", ".plan", ".trt"),
    ONNX: (".onnx",),
    CHECKPOINT: (".pth", ".pt", ".ckpt", ".safetensors", ".hdf5", ".tlt"),
}


def artefact_kind(name: str) -> str | None:
    """``checkpoint``, ``onnx`` or ``engine`` by the suffix of a file name; None for any other file."""
    suffix = PurePosixPath(name).suffix.lower()
    return next((kind for kind, suffixes in _SUFFIXES.items() if suffix in suffixes), None)


@dataclass(frozen=True)
class Artefact:
    """A chosen file of a parent. `needs` holds ``(url, path, sha256 or None)`` of what must be fetched before `path` can be read."""

    path: Path
    reason: str
    needs: tuple[tuple[str, Path, str | None], ...] = ()


@dataclass(frozen=True)
class ParentInfo:
    """A COMPLETE job, as its children see it.

    Attributes:
        id: of the job itself; for an AutoML job that of its best child, and `resolved_from` is the id that was asked for.
        job_dir: its local folder; for a remote one, where its files are put when they are fetched.
        kind: ``checkpoint``, ``onnx``, ``engine``, or ``none`` when the job leaves no model.
        spec: its resolved spec.  checkpoint_meta: what ``checkpoints.json`` says of the newest checkpoint that its model comes from.
        files: relative path → bytes.  elsewhere: artefacts that its result names outside its folder.
    """

    id: str
    job_dir: Path
    action: str
    kind: str
    spec: dict[str, Any]
    checkpoint_meta: dict[str, Any] | None
    resolved_from: str | None
    root: Root
    files: Mapping[str, int] = field(default_factory=dict)
    index: dict[str, Any] | None = None
    elsewhere: tuple[Path, ...] = ()

    def model(self, policy: str) -> Artefact:
        """The model that the job left; `policy` chooses among checkpoints.

        Raises:
            NotFoundError, CheckpointError, UsageError: there is none, it is damaged, or the policy does not fit.
        """
        if self.kind == CHECKPOINT and self.index is not None:
            choice = self._choose(policy)
            name = f"{self.action}/{choice.entry['file']}"
            return self._artefact(
                [name], "; ".join([choice.reason, *choice.notices]), choice.entry.get("sha256")
            )
        if self.kind == CHECKPOINT:
            name, reason = self._unindexed(policy)
            return self._artefact([name], reason)
        found = [name for name in self._own() if artefact_kind(name) == self.kind]
        outside = [path for path in self.elsewhere if artefact_kind(path.name) == self.kind]
        if len(found) + len(outside) != 1:
            raise NotFoundError(
                f"job {self.id} left {'no' if not found and not outside else 'more than one'} {self.kind} file",
                field="parent_job_id",
                got=sorted([*found, *map(str, outside)]),
                expected="exactly one",
                hint="name the file in the spec instead",
            )
        if outside:
            return Artefact(outside[0], f"the {self.kind} file that it wrote outside its folder")
        beside = [
            name for name in self.files if name != found[0] and name.startswith(found[0])
        ]  # weights kept outside the .onnx
        return self._artefact([*found, *beside], f"the {self.kind} file of its {self.action}")

    def folder(self) -> Artefact:
        """The folder that holds the model."""
        names = self._own()
        base = (
            self._artefact(names, f"the results of its {self.action}")
            if names
            else Artefact(self.job_dir, "")
        )
        return Artefact(self.job_dir / self.action, base.reason, base.needs)

    def _own(self) -> list[str]:
        return sorted(name for name in self.files if name.startswith(f"{self.action}/"))

    def _choose(self, policy: str) -> Choice:
        if not self.root.remote or (self.job_dir / self.action / INDEX_NAME).exists():
            return CheckpointIndex(self.job_dir / self.action).choose(policy)
        assert self.index is not None

        def damaged(entry: dict[str, Any]) -> str | None:
            size = self.files.get(f"{self.action}/{entry['file']}")
            if size is None:
                return "the file is gone"
            return None if size == entry["size"] else f"{size} bytes instead of {entry['size']}"

        return choose(self.index, policy, damaged)

    def _unindexed(self, policy: str) -> tuple[str, str]:
        """A checkpoint of a runner that keeps no index: only what the names tell."""
        kind, epoch = parse_policy(policy)
        names = [name for name in self._own() if artefact_kind(name) == CHECKPOINT]
        if kind == "epoch":
            names = [name for name in names if epoch in _numbers(PurePosixPath(name).stem)]
        elif kind == "latest":
            names = [name for name in names if "latest" in PurePosixPath(name).stem] or names
        if len(names) == 1:
            return names[0], "the only one" if kind == "best" else kind
        if not names:
            raise NotFoundError(
                f"job {self.id} has no checkpoint that fits", field="checkpoint", got=policy
            )
        raise NotFoundError(
            f"job {self.id} keeps no {INDEX_NAME} that says which checkpoint is {kind}",
            field="checkpoint",
            got=policy,
            expected="epoch:N, or a checkpoint file named in the spec",
            hint=", ".join(names[:8]),
        )

    def _artefact(self, names: list[str], reason: str, sha256: str | None = None) -> Artefact:
        needs: list[tuple[str, Path, str | None]] = []
        if self.root.remote:
            for name in names:
                path = self.job_dir / name
                if not path.is_file() or path.stat().st_size != self.files[name]:
                    needs.append(
                        (
                            urls.join(self.root.job_url(self.id), name),
                            path,
                            sha256 if name == names[0] else None,
                        )
                    )
        return Artefact(self.job_dir / names[0], reason, tuple(needs))


def _numbers(stem: str) -> set[int]:
    """The epoch that a file name states: ``model_epoch_007`` → {7}."""
    words = stem.replace("-", "_").replace("=", "_").split("_")
    return {
        int(after)
        for word, after in pairwise(words)
        if word.lower().endswith("epoch") and after.isdigit()
    }


def parent_info(
    parent_job_id: str, results_root: str | Path | None = None, *, complete: bool = True
) -> ParentInfo:
    """Look at a parent job.

    Args:
        parent_job_id: its id or an unambiguous prefix; an AutoML job resolves to its best child.
        results_root: where it lies; None as in `Root`.
        complete: whether it must have ended well; one that has not may still have left checkpoints.

    Raises:
        NotFoundError: no such job, or an AutoML job without a successful trial.  UsageError: it is not COMPLETE, or the prefix is ambiguous.
    """
    root = Root(results_root)
    job_id, asked = root.resolve(parent_job_id), None
    look = _complete if complete else Root.record
    record = look(root, job_id)
    if record.get("kind") == "automl":
        asked, job_id = job_id, _best_child(root, job_id)
        record = look(root, job_id)
    action = str(record["action"])
    files = root.files(job_id)
    index, elsewhere = _index(root, job_id, action, files), _elsewhere(root, job_id, action, files)
    kinds = {artefact_kind(name) for name in files if name.startswith(f"{action}/")} | {
        artefact_kind(path.name) for path in elsewhere
    }
    kind = (
        CHECKPOINT
        if index is not None
        else next((kind for kind in (ENGINE, ONNX, CHECKPOINT) if kind in kinds), "none")
    )
    spec = _spec(root, job_id, files)
    meta = (
        dict(max(index["checkpoints"], key=lambda entry: (entry["epoch"], entry["step"])))
        if index and index["checkpoints"]
        else None
    )
    if meta is None:
        meta = _inherited_meta(record, spec, root)
    return ParentInfo(
        job_id,
        root.work_dir(job_id),
        action,
        kind,
        spec,
        meta,
        asked,
        root,
        files,
        index,
        elsewhere,
    )


def _complete(root: Root, job_id: str) -> records.JobRecord:
    """The record of a job that must be COMPLETE."""
    scratch = root.work_dir(job_id)
    if (scratch / records.RECORD_NAME).exists():
        from mae_sdk.job import observe

        record, state = observe(scratch)
    else:
        record = root.record(job_id)
        state = records.state_of(record)
    if state != records.COMPLETE:
        hint = f"mae jobs {'wait' if state in (records.PENDING, records.RUNNING) else 'resume'} {job_id}"
        if record.get("kind") == "automl":
            hint += "; or pass one of its finished children as the parent: mae jobs list --all"
        raise UsageError(
            f"the parent job is {state}",
            field="parent_job_id",
            got=job_id,
            expected="a job that is COMPLETE",
            hint=hint,
        )
    return record


def _best_child(root: Root, job_id: str) -> str:
    if not root.remote:
        from mae_sdk.automl.results import best_child

        return best_child(root.work_dir(job_id))
    try:
        return str(json.loads(root.read(job_id, "automl/best.json"))["child"])
    except (NotFoundError, ValueError, KeyError):
        raise NotFoundError(
            "the AutoML job has no successful trial", field="parent_job_id", got=job_id
        ) from None


def _index(root: Root, job_id: str, action: str, files: Mapping[str, int]) -> dict[str, Any] | None:
    name = f"{action}/{INDEX_NAME}"
    return (
        read_index(root.read(job_id, name).decode(errors="replace"), name)
        if name in files
        else None
    )


def _elsewhere(root: Root, job_id: str, action: str, files: Mapping[str, int]) -> tuple[Path, ...]:
    """Artefacts that the result names outside the job's folder, as far as they are there."""
    if f"{action}/result.json" not in files:
        return ()
    try:
        named = json.loads(root.read(job_id, f"{action}/result.json")).get("artefacts") or []
    except (ValueError, AttributeError):
        return ()
    paths = [Path(str(name)) for name in named]
    return tuple(
        path for path in paths if path.is_absolute() and job_id not in path.parts and path.is_file()
    )


def _spec(root: Root, job_id: str, files: Mapping[str, int]) -> dict[str, Any]:
    if "spec.yaml" not in files:
        return {}
    from mae_skill.reader import parse_yaml

    try:
        found = parse_yaml(root.read(job_id, "spec.yaml").decode(errors="replace"), "spec.yaml")
    except MaeError as error:
        raise CheckpointError(
            f"the spec of job {job_id} cannot be read: {error.message}",
            field="parent_job_id",
            got=job_id,
        ) from error
    return found if isinstance(found, dict) else {}


def _inherited_meta(
    record: records.JobRecord, spec: Mapping[str, Any], root: Root
) -> dict[str, Any] | None:
    """What is known of the checkpoint that an exported model was made from, when it came from a job that is still there."""
    above = record.get("parent_job_id") or record.get("parent")
    if not above:
        return None
    try:
        info = parent_info(str(above), root.url)
    except MaeError:
        return None

    inside = f"/{info.id}/"
    return (
        info.checkpoint_meta
        if any(isinstance(value, str) and inside in value for value in flatten(spec).values())
        else None
    )
