"""What an action is given beside its spec: where to write, rank, device, progress and status."""

from __future__ import annotations

import errno
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from mae_sdk.jobs.status import StatusWriter
from mae_sdk.run.process_group import several_tasks
from mae_skill.errors import DependencyError, StorageError, UsageError
from mae_skill.spec import (
    EvaluateSpec,
    ExperimentSpec,
    ExportSpec,
    GenTrtEngineSpec,
    InferenceSpec,
    TrainSpec,
)

if TYPE_CHECKING:
    import torch
    from mae_skill.origin import Origin
    from rich.progress import Progress as Bar

ActionSpec = TrainSpec | EvaluateSpec | InferenceSpec | ExportSpec | GenTrtEngineSpec

ENCRYPTION_VARIABLE = "MAE_ENCRYPTION_KEY"
REPORT_INTERVAL_S = 30.0  # a run writes its report at most once in this many seconds
SEVERAL_TASKS = (
    "start one task on each node, num_gpus starts its ranks; over several nodes with "
    "WORLD_SIZE (of nodes), NODE_RANK, MASTER_ADDR and MASTER_PORT; or give every task RANK, "
    "LOCAL_RANK and WORLD_SIZE (of ranks)"
)
LINE_INTERVAL_S = 5.0  # without a terminal: at most one progress line in this many seconds


class StopSignal(Protocol):
    """The signals by which a scheduler takes a machine back (`mae_runners.training.preemption`)."""

    flag: bool

    def begin(self) -> None: ...

    def release(self) -> None: ...


class Progress:
    """Counts steps: a bar on a terminal, one JSON line every few seconds otherwise, nothing on
    ranks above 0."""

    def __init__(self, total: int, description: str, *, enabled: bool, initial: int = 0) -> None:
        self.total, self.description, self.done, self.enabled = total, description, initial, enabled
        self._bar: Bar | None = None
        self._last_line = time.monotonic()
        if enabled and sys.stderr.isatty():
            from mae_sdk.run.output import drawn_on
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as RichProgress

            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[values]}"),
            )
            self._bar = RichProgress(
                *columns, console=Console(file=drawn_on(sys.stderr)), transient=True
            )
            self._task = self._bar.add_task(description, total=total, completed=initial, values="")
            self._bar.start()

    def advance(self, count: int = 1, **values: float) -> None:
        """Counts `count` more steps and shows `values` (name → number) beside them."""
        self.done += count
        if self._bar is not None:
            shown = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
            self._bar.update(self._task, completed=self.done, values=shown)
        elif self.enabled and time.monotonic() - self._last_line >= LINE_INTERVAL_S:
            self._last_line = time.monotonic()
            line = {"progress": self.description, "done": self.done, "total": self.total}
            # NaN is left out: JSON has none.
            line |= {
                name: round(float(value), 6) for name, value in values.items() if value == value
            }
            print(json.dumps(line), file=sys.stderr, flush=True)

    def close(self) -> None:
        """Removes the bar."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


@dataclass
class RunContext:
    """Where and as what an action runs.

    Attributes:
        action: the action's name.
        results_dir: the job folder (holds `status.json`, `error.json`, one folder per action).
        action_dir: `results_dir/<action>`, or `<action>.results_dir` of the spec.
        rank, local_rank, world_size: this process among all processes of the run.
        device: the torch device of this process.
        status: the writer of `status.json`; does nothing on ranks above 0.
        encryption_key: the key for checkpoints at rest, already resolved; None = not encrypted.
        provenance: dotted spec key → where its value came from.
        data: what was seen in the data (`mae_runners.data.judged`): ``sources, warnings``.
        preemption: training's handler of SIGTERM and SIGUSR1, installed before anything else; None
            in other actions.
        warnings: what was warned of so far, on rank 0, for ``result.json``.
        next_report: when the job's report is due again, on the clock of `time.monotonic`.
    """

    action: str
    results_dir: Path
    action_dir: Path
    rank: int
    local_rank: int
    world_size: int
    device: torch.device
    status: StatusWriter
    encryption_key: str | None = field(default=None, repr=False)
    provenance: Mapping[str, Origin] = field(default_factory=dict, repr=False)
    data: dict[str, Any] = field(default_factory=dict, repr=False)
    preemption: StopSignal | None = field(default=None, repr=False)
    warnings: list[str] = field(default_factory=list, repr=False)
    next_report: float = field(
        default_factory=lambda: time.monotonic() + REPORT_INTERVAL_S, repr=False
    )

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def report(self, ending: str | None = None) -> None:
        """Writes the job's report, on rank 0: now where the action has ended as `ending`, else now
        and then, so that it costs less than a hundredth of the run."""
        if not self.is_main or (ending is None and time.monotonic() < self.next_report):
            return
        began = time.monotonic()
        try:
            from mae_sdk.report.make import Ending, refresh

            refresh(self.results_dir, Ending(ending) if ending else None)
        except Exception as error:  # without what it needs, a run goes on without its report
            self.log(f"no report: {error}")
        now = time.monotonic()
        self.next_report = now + max(REPORT_INTERVAL_S, 100.0 * (now - began))

    def log(self, message: str) -> None:
        """Prints one line for people on stderr, on rank 0 alone."""
        if self.is_main:
            print(message, file=sys.stderr, flush=True)

    def warn(self, message: str) -> None:
        """Logs a warning, which the result repeats."""
        self.log(f"warning: {message}")
        if self.is_main and message not in self.warnings:
            self.warnings.append(message)

    @contextmanager
    def progress(self, total: int, description: str, initial: int = 0) -> Iterator[Progress]:
        """A progress display for `total` steps: a bar on a terminal, JSON lines otherwise."""
        progress = Progress(total, description, enabled=self.is_main, initial=initial)
        try:
            yield progress
        finally:
            progress.close()


def make_context(
    action: str, spec: ExperimentSpec, provenance: Mapping[str, Origin] | None = None
) -> RunContext:
    """The context of this process, from the spec and the supervisor's torchelastic variables.

    Raises:
        DependencyError: the spec asks for a GPU and there is none.
        UsageError: nothing can be written to `results_dir`.
    """
    import torch

    rank, local_rank, world_size = ranks_of_environment()

    results_dir = job_dir_of(spec)
    section: ActionSpec = getattr(spec, action)
    action_dir = Path(section.results_dir) if section.results_dir else results_dir / action
    make_folder(results_dir)
    make_folder(action_dir, f"{action}.results_dir" if section.results_dir else "results_dir")

    kind, notice = device_kind(spec, action)
    if kind == "gpu":
        device = torch.device("cuda", device_ids(section, local_rank + 1)[local_rank])
        torch.cuda.set_device(device)
    else:
        device = torch.device("cpu")

    context = RunContext(
        action=action,
        results_dir=results_dir,
        action_dir=action_dir,
        rank=rank,
        local_rank=local_rank,
        world_size=world_size,
        device=device,
        # `status.json` has one writer.
        status=StatusWriter(results_dir / "status.json" if rank == 0 else None),
        encryption_key=resolve_key(spec.encryption_key),
        provenance=provenance or {},
    )
    if notice:
        context.log(notice)
    return context


def ranks_of_environment() -> tuple[int, int, int]:
    """(rank, rank on this node, number of ranks) of this process: (0, 0, 1) without ``RANK``.

    Raises:
        UsageError: the variables contradict each other, or do not say where rank 0 is; this is one
            of several tasks that nothing joins.
    """
    alone = several_tasks(os.environ, "run the whole action by itself", SEVERAL_TASKS)
    if alone is not None:
        raise alone
    if "RANK" not in os.environ:  # an orchestrator's WORLD_SIZE counts nodes
        return 0, 0, 1
    rank, world = environment_number("RANK", 0), environment_number("WORLD_SIZE", 1)
    if rank >= world:
        raise UsageError(
            "there is no such rank",
            field="RANK",
            got=rank,
            expected=f"a number below WORLD_SIZE, which is {world}",
            hint="to start a run by hand, set neither of them: train.num_gpus starts its ranks",
        )
    if world > 1:
        require_meeting_place(f"RANK={rank} and WORLD_SIZE={world} name one of {world} processes")
    return rank, environment_number("LOCAL_RANK", 0), world


def require_meeting_place(why: str, *more: str) -> None:
    """Refuse to wait for others who cannot know where.

    Raises:
        UsageError: ``MASTER_ADDR``, ``MASTER_PORT`` or one of `more` is not set.
    """
    names = ("MASTER_ADDR", "MASTER_PORT", *more)
    missing = [name for name in names if not os.environ.get(name)]
    if missing:
        raise UsageError(
            f"{why}, and {' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not set",
            field="WORLD_SIZE",
            got=os.environ.get("WORLD_SIZE"),
            expected=", ".join(names)
            + ", the same on every node"
            + (" but for NODE_RANK" if more else ""),
            hint="set them, or unset WORLD_SIZE and RANK",
        )
    if not 0 < environment_number("MASTER_PORT", 0) < 65536:
        raise UsageError(
            "not a port",
            field="MASTER_PORT",
            got=os.environ["MASTER_PORT"],
            expected="a number from 1 to 65535",
        )


def make_folder(folder: Path, field_name: str = "results_dir") -> None:
    """Makes a folder for results.

    Raises:
        UsageError: it cannot be made, or nothing can be written there.
        StorageError: its disk is full.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, "Permission denied")
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageError(
                f"the folder cannot be made: {error.strerror}",
                field=field_name,
                got=str(folder),
                hint="make room on its disk",
            ) from error
        raise UsageError(
            f"nothing can be written there: {error.strerror or error}",
            field=field_name,
            got=str(folder),
            expected="a folder that exists or can be made, and can be written",
            hint=f"choose another {field_name}",
        ) from error


def job_dir_of(spec: ExperimentSpec) -> Path:
    """The job folder: the supervisor's, else `results_dir` of the spec, else `./results`."""
    return (
        Path(spec.results_dir or os.environ.get("MAE_JOB_DIR") or "results").expanduser().absolute()
    )


def device_ids(section: ActionSpec, at_least: int = 1) -> list[int]:
    """The device indices a section asks for.

    `gpu_ids`, extended to the largest of their number, `num_gpus`, an orchestrator's
    `NUM_GPU_PER_NODE` and `at_least` (the larger setting holds, as documented).

    Raises:
        UsageError: `NUM_GPU_PER_NODE` is not a number.
    """
    if isinstance(section, (ExportSpec, GenTrtEngineSpec)):
        ids, number = [section.gpu_id], 1
    else:
        ids, number = list(section.gpu_ids), section.num_gpus

    wanted = max(number, len(ids), at_least, environment_number("NUM_GPU_PER_NODE", 0))
    candidate = 0
    while len(ids) < wanted:
        if candidate not in ids:
            ids.append(candidate)
        candidate += 1
    return ids


def processes_per_node(section: ActionSpec) -> int:
    """How many processes a node runs: the largest of `num_gpus`, the length of `gpu_ids` and an
    orchestrator's `NUM_GPU_PER_NODE`."""
    return len(device_ids(section))


def environment_number(name: str, default: int) -> int:
    """An orchestrator's variable as a number.

    Raises:
        UsageError: it is not a number.
    """
    text = os.environ.get(name) or str(default)
    if not text.strip().isdigit():
        raise UsageError(
            f"the environment variable {name} is not a number",
            field=name,
            got=text,
            expected="a number from 0",
        )
    return int(text)


def device_kind(spec: ExperimentSpec, action: str) -> tuple[str, str | None]:
    """("gpu" | "cpu", a notice or None) for `train.accelerator`, the action's devices and what this
    machine has.

    Raises:
        DependencyError: a GPU, or more GPUs than exist, are asked for.
    """
    wanted = spec.train.accelerator
    if wanted == "cpu":
        return "cpu", None
    import torch

    section: ActionSpec = getattr(spec, action)
    ids = device_ids(section)
    if isinstance(section, (ExportSpec, GenTrtEngineSpec)):
        field_name = f"{action}.gpu_id"
    else:
        field_name = f"{action}.{'num_gpus' if section.gpu_ids in ([], [0]) else 'gpu_ids'}"

    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if available == 0:
        if wanted == "gpu":
            raise DependencyError(
                "there is no usable GPU on this machine",
                field="train.accelerator",
                got="gpu",
                hint="set train.accelerator to cpu or auto",
            )
        if len(ids) > 1:
            raise DependencyError(
                f"{len(ids)} devices are asked for and this machine has no GPU",
                field=field_name,
                got=len(ids),
                expected="1",
                hint="set train.accelerator=cpu to run that many CPU processes",
            )
        return "cpu", "accelerator auto: no GPU found, running as one CPU process"
    if max(ids) >= available:
        raise DependencyError(
            f"device {max(ids)} is asked for and this machine has {available}",
            field=field_name,
            got=ids,
            expected=f"indices below {available}",
            hint="lower num_gpus, or name existing devices in gpu_ids",
        )
    return "gpu", None


def resolve_key(value: str | None) -> str | None:
    """The key that `encryption_key` stands for: `env:NAME` reads the variable; a literal is taken
    as it is; empty = no encryption.

    Raises:
        UsageError: the variable that the reference names is not set.
    """
    if not value:
        return None
    if value.startswith("env:"):
        name = value[4:]
        if not os.environ.get(name):
            raise UsageError(
                f"the environment variable {name} is not set",
                field="encryption_key",
                got=value,
                hint=f"export {name}, or clear encryption_key",
            )
        return os.environ[name]
    return value
