"""What a job has left for the next one: found in its folder, on a local disk or behind a URL.

Looking copies nothing: a plan reads lists and small files only. `fetch` brings the chosen files of
a remote job.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from mae_skill.dotted import flatten
from mae_skill.errors import CheckpointError, DataError, MaeError, NotFoundError

from mae_sdk.files import parse_json
from mae_sdk.jobs import metric_file, records
from mae_sdk.jobs.checkpoint_files import FILE, FOLDER, shards_of
from mae_sdk.jobs.checkpoint_names import (
    CHECKPOINT,
    ENGINE,
    ONNX,
    Judged,
    artifact_kind,
    choose_by_name,
    is_numbered,
    results_of,
    stated_model,
)
from mae_sdk.jobs.checkpoints import (
    INDEX_NAME,
    CheckpointIndex,
    Choice,
    choose,
    parse_policy,
    read_index,
    sha256_of,
)
from mae_sdk.jobs.metrics import judged
from mae_sdk.jobs.root import Root, check_id
from mae_sdk.jobs.status import in_order, lines_from
from mae_sdk.storage import urls

BEST_NAME = "best.json"


@dataclass(frozen=True)
class Artifact:
    """A chosen file of a job.

    Attributes:
        needs: what must be fetched before `path` can be read: ``(url, path, sha256 or None)``.
    """

    path: Path
    reason: str
    needs: tuple[tuple[str, Path, str | None], ...] = ()


@dataclass(frozen=True)
class ParentInfo:
    """A job, as those that start from it see it.

    Attributes:
        id: of the job itself; for an AutoML job that of its best trial, and `resolved_from` is the
            id that was asked for.
        job_dir: its local folder; for a remote one, where its files are put when they are fetched.
        kind: ``checkpoint``, ``onnx``, ``engine``, or ``none`` when the job leaves no model.
        spec: its resolved spec.
        checkpoint_meta: the entry of ``checkpoints.json`` for the newest checkpoint that its model
            comes from.
        files: relative path → bytes.
        index: of its checkpoints; None of a runner that keeps none, whose epochs are `judged` by
            its status lines.
        elsewhere: artifacts that its result names outside its folder.
        skill, network_arch: of the bundle that it was made with; empty where that is not recorded.
        above: id of the job that it started from; empty where it started from none.
        stated: the model that its bundle states as the result: an ONNX file, an engine, or one of a
            kind that its name does not tell; empty where it left another.
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
    judged: Judged | None = None
    elsewhere: tuple[Path, ...] = ()
    skill: str = ""
    network_arch: str = ""
    above: str = ""
    stated: str = ""

    def model(self, policy: str, form: str | None = None) -> Artifact:
        """The model that the job left; `policy` chooses among checkpoints.

        Args:
            form: ``file`` or ``folder``, as the field is declared that takes it; None: a file, or
                the folder of a model that is in several.

        Raises:
            NotFoundError, CheckpointError, UsageError: there is none, it is damaged, the policy
                does not fit, or it is several files where one is wanted.
        """
        made = self._model(policy)
        is_inside = made.path.is_relative_to(self.job_dir)
        name = made.path.relative_to(self.job_dir).as_posix() if is_inside else made.path.name
        shards = shards_of(name, self.files) if is_inside else []
        if shards and form == FILE:
            raise CheckpointError(
                f"the model of job {self.id} is in {len(shards)} files, and this field takes one",
                field="parent_job_id",
                got=shards[:4],
                expected="a model in one file",
                hint="save it in one file, or declare the input as `type: folder` in the bundle",
            )
        if not shards and form != FOLDER:
            return made
        if not is_inside:
            return replace(made, path=made.path.parent)
        folder = PurePosixPath(name).parent
        inside = [one for one in sorted(self.files) if folder in PurePosixPath(one).parents]
        whole = self._artifact(inside, f"{made.reason}; its folder")
        return replace(whole, path=made.path.parent)

    def _model(self, policy: str) -> Artifact:
        """The file of the model, as `model`."""
        if self.kind == CHECKPOINT and self.index is not None:
            choice = self._choose(policy)
            name = f"{self.action}/{choice.entry['file']}"
            return self._artifact(
                [name], "; ".join([choice.reason, *choice.notices]), choice.entry.get("sha256")
            )
        if self.stated:
            if parse_policy(policy)[0] == "epoch":
                raise NotFoundError(
                    f"the model of job {self.id} is the result of its {self.action}, of no epoch",
                    field="checkpoint",
                    got=policy,
                    expected=f"best or latest, which are {self.stated}",
                )
            # Weights of a large model are kept in a file beside the .onnx.
            more = [
                name for name in self.files if name != self.stated and name.startswith(self.stated)
            ]
            beside = more if self.kind == ONNX else []
            return self._artifact([self.stated, *beside], f"the result of its {self.action}")
        if self.kind == CHECKPOINT:
            name, reason = choose_by_name(self._own(), policy, self.id, self.judged)
            # A folder of the model hub: the file of weights and what describes it.
            described = str(PurePosixPath(name).with_name("config.json"))
            return self._artifact([name, *([described] if described in self.files else [])], reason)

        if self.kind == "none":
            raise NotFoundError(
                f"job {self.id} did {self.action} and left no checkpoint and no other model",
                field="parent_job_id",
                got=sorted(self._own())[:12],
                expected="a job that left a checkpoint, an ONNX file or an engine",
                hint=f"mae jobs logs {self.id} says what it did",
            )
        inside = [name for name in self._own() if artifact_kind(name) == self.kind]
        outside = [path for path in self.elsewhere if artifact_kind(path.name) == self.kind]
        if len(inside) > 1 and not outside:  # the one that its spec says it writes
            written = [str(value) for value in flatten(self.spec).values()]
            ends = {name: f"/{self.id}/{name}" for name in inside}
            said = [name for name in inside if any(one.endswith(ends[name]) for one in written)]
            inside = said if len(said) == 1 else inside
        if len(inside) + len(outside) != 1:
            count = "more than one" if inside or outside else "no"
            raise NotFoundError(
                f"job {self.id} left {count} {self.kind} file",
                field="parent_job_id",
                got=sorted([*inside, *map(str, outside)]),
                expected="exactly one",
                hint="name the file in the spec instead",
            )
        if outside:
            return Artifact(outside[0], f"the {self.kind} file that it wrote outside its folder")

        # Weights of a large model are kept in a file beside the .onnx.
        beside = [name for name in self.files if name != inside[0] and name.startswith(inside[0])]
        return self._artifact([*inside, *beside], f"the {self.kind} file of its {self.action}")

    def folder(self) -> Artifact:
        """The folder that holds the model."""
        names = self._own()
        if not names:
            return Artifact(self.job_dir / self.action, "")
        results = self._artifact(names, f"the results of its {self.action}")
        models = [name for name in names if artifact_kind(name)]
        folder = (self.job_dir / (models or names)[-1]).parent
        if all(name.startswith(f"{self.action}/") for name in names):
            folder = self.job_dir / self.action
        return Artifact(folder, results.reason, results.needs)

    def _own(self) -> list[str]:
        return results_of(self.files, self.action)

    def _choose(self, policy: str) -> Choice:
        if not self.root.remote or (self.job_dir / self.action / INDEX_NAME).exists():
            return CheckpointIndex(self.job_dir / self.action).choose(policy)
        assert self.index is not None

        def damaged(entry: dict[str, Any]) -> str | None:
            size = self.files.get(f"{self.action}/{entry['file']}")
            if size is None:
                return "the file is missing"
            return None if size == entry["size"] else f"{size} bytes instead of {entry['size']}"

        return choose(self.index, policy, damaged)

    def _artifact(self, names: list[str], reason: str, sha256: str | None = None) -> Artifact:
        needs: list[tuple[str, Path, str | None]] = []
        inside = names and names[0].startswith(f"{self.action}/")
        folder = (self.job_dir / self.action if inside else self.job_dir).resolve()
        for name in () if self.root.remote else names:
            if not (self.job_dir / name).resolve().is_relative_to(folder):
                raise CheckpointError(
                    f"{name} of job {self.id} is a link that leads out of its folder",
                    field="parent_job_id",
                    got=self.id,
                    hint="name the file itself in the spec instead",
                )
        if self.root.remote:
            for name in names:
                path = self.job_dir / name
                if not path.is_file() or path.stat().st_size != self.files[name]:
                    url = urls.join(self.root.job_url(self.id), name)
                    needs.append((url, path, sha256 if name == names[0] else None))
        return Artifact(self.job_dir / names[0], reason, tuple(needs))


def outputs_of(
    job_id: str,
    results_root: str | Path | None = None,
    *,
    record_of: Callable[[Root, str], records.JobRecord] = Root.record,
) -> ParentInfo:
    """Look at what a job has left.

    Args:
        job_id: its id or an unambiguous prefix; an AutoML job resolves to its best trial.
        results_root: where it is; None as in `Root`.
        record_of: reads a job's record, and may refuse it.

    Raises:
        NotFoundError: no such job, or an AutoML job without a successful trial.
        UsageError: the prefix is ambiguous.
    """
    root = Root(results_root)
    job_id, asked = root.resolve(job_id), None
    record = record_of(root, job_id)
    if record.get("kind") == "automl":
        asked, job_id = job_id, best_child(root, job_id)
        record = record_of(root, job_id)

    action = record["action"]
    files = root.files(job_id)
    index, elsewhere = _index(root, job_id, action, files), _elsewhere(root, job_id, action, files)
    own = results_of(files, action)
    kinds = {artifact_kind(name) for name in [*own, *(path.name for path in elsewhere)]}
    kind = next((kind for kind in (ENGINE, ONNX, CHECKPOINT) if kind in kinds), "none")
    if index is not None:
        kind = CHECKPOINT
    spec = _spec(root, job_id, files)
    result = record["launch"].get("result") if record.get("skill_dir") else None
    stated = stated_model(result)
    of_result = artifact_kind(result or "")
    if index is None and of_result in (ONNX, ENGINE) and result in files:
        kind, stated = of_result, result  # of several models, the one that the bundle states
    elif index is None and of_result == CHECKPOINT and result in files:
        kind, stated = CHECKPOINT, None
    else:
        is_behind = index is not None or kind in (ONNX, ENGINE) or _is_saved(own, spec, job_id)
        stated = None if is_behind or stated not in files else stated
        kind = kind if stated is None else CHECKPOINT

    meta = _newest(index) if index else None
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
        _judged(root, job_id, record, files) if index is None else None,
        elsewhere,
        str(record.get("skill") or ""),
        str(record.get("network_arch") or ""),
        str(record.get("parent") or ""),
        stated or "",
    )


def _is_saved(own: Iterable[str], spec: Mapping[str, Any], job_id: str) -> bool:
    """Whether a checkpoint among a job's results is one of its training, by its name, or the file
    that its spec says it writes."""
    written = [value for value in flatten(spec).values() if isinstance(value, str)]
    return any(
        is_numbered(name) or any(one.endswith(f"/{job_id}/{name}") for one in written)
        for name in own
        if artifact_kind(name) == CHECKPOINT
    )


def _newest(index: Mapping[str, Any]) -> dict[str, Any] | None:
    """The entry of the newest checkpoint of an index."""
    entries: list[dict[str, Any]] = index["checkpoints"]
    return max(entries, key=lambda entry: (entry["epoch"], entry["step"]), default=None)


def best_child(root: Root, job_id: str) -> str:
    """The id of an AutoML job's best trial.

    Of several metrics: the trial of the Pareto front that is best in the first.

    Raises:
        NotFoundError: no trial has succeeded yet.
    """
    try:
        child = _json(root, job_id, f"automl/{BEST_NAME}").get("child")
        if isinstance(child, str) and child.startswith(f"{job_id}."):
            check_id(child)
            return child
        raise DataError(
            f"the record of the best trial of {job_id} is damaged",
            field="parent_job_id",
            got=child,
            expected=f"a trial of {job_id}",
            hint="take one of its trials as the parent: mae jobs list --all",
        )
    except NotFoundError:
        raise NotFoundError(
            "the AutoML job has no successful trial",
            field="parent_job_id",
            got=job_id,
            hint="wait for the first trial to end, or look at automl/trials.csv",
        ) from None


class Fetchable(Protocol):
    """Something that names files which are not on this machine yet."""

    @property
    def needs(self) -> tuple[tuple[str, Path, str | None], ...]: ...


def fetch(items: Iterable[Fetchable]) -> list[Path]:
    """Bring the files that `items` need.

    Raises:
        StorageError, NotFoundError: one could not be brought.
        CheckpointError: what came is not what its index says.
    """
    needs = {path: (url, sha256) for item in items for url, path, sha256 in item.needs}
    if not needs:
        return []
    from mae_sdk.storage import hub, transfer

    of_hub = [url for url, _ in needs.values() if hub.is_reference(url)]
    rest = [(url, str(path)) for path, (url, _) in needs.items() if not hub.is_reference(url)]
    for url in of_hub:
        hub.bring(url)
    if rest:
        transfer.download_many(rest)
    for path, (url, sha256) in needs.items():
        if sha256 is not None and sha256_of(path) != sha256:
            path.unlink()
            raise CheckpointError(
                "its sha256 differs from the recorded one", field="checkpoint", got=urls.redact(url)
            )
    return list(needs)


def _index(root: Root, job_id: str, action: str, files: Mapping[str, int]) -> dict[str, Any] | None:
    name = f"{action}/{INDEX_NAME}"
    return (
        read_index(root.read(job_id, name).decode(errors="replace"), name)
        if name in files
        else None
    )


def _judged(
    root: Root, job_id: str, record: records.JobRecord, files: Mapping[str, int]
) -> Judged | None:
    """How good each epoch of a job was, where its record states by what that is judged."""
    if "best" not in record["launch"]:
        return None

    def read(name: str) -> bytes:
        try:
            return root.read(job_id, name)
        except (NotFoundError, DataError):  # gone, or too large: then it says nothing
            return b""

    best = record["launch"]["best"]
    lines = lines_from(files, lambda name: read(name).decode(errors="replace"))
    if where := record["launch"].get("metric_file"):
        lines += metric_file.lines_from(files, read, where, [str(best.get("metric"))])
    return judged(in_order(lines), best)


def _elsewhere(root: Root, job_id: str, action: str, files: Mapping[str, int]) -> tuple[Path, ...]:
    """Artifacts that the result names outside the job's folder, and that exist."""
    if f"{action}/result.json" not in files:
        return ()
    named = _json(root, job_id, f"{action}/result.json").get("artefacts")
    paths = [Path(name) for name in named or [] if isinstance(name, str) and "\0" not in name]
    return tuple(
        path for path in paths if path.is_absolute() and job_id not in path.parts and path.is_file()
    )


def _json(root: Root, job_id: str, name: str) -> dict[str, Any]:
    """A JSON object of a job; an empty one where the file holds none."""
    try:
        content = parse_json(root.read(job_id, name).decode(errors="replace"))
    except ValueError:
        content = None
    return content if isinstance(content, dict) else {}


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
    """The entry of the checkpoint that an exported model was made from, if its job exists."""
    above = record.get("parent")
    if not above:
        return None
    try:
        info = outputs_of(above, root.url)
    except MaeError:
        return None

    inside = f"/{info.id}/"
    taken = any(isinstance(value, str) and inside in value for value in flatten(spec).values())
    return info.checkpoint_meta if taken else None
