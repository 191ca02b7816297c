"""``python -m mae_runners <action> -e spec.yaml [key=value …]``: one action, in this process or as
ranks of one run.

Exit codes are those of `mae_skill.errors`; 75 = preempted after saving. Errors leave
``<results_dir>/error.json``; success leaves ``<results_dir>/<action>/result.json``, written last.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import importlib
import json
import os
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mae_sdk import files
from mae_sdk.files import read_json, temporary_folder, write_json
from mae_sdk.jobs.secrets import known, redact_error, redact_tree
from mae_sdk.run.output import (
    CLOSED_PIPE_EXIT,
    clean_output,
    drop_output,
    is_closed,
    whole_streams,
)
from mae_skill.bundle import Bundle
from mae_skill.errors import MaeError, PreemptedError, StorageError, UsageError, internal_error
from mae_skill.reader import parse_overrides
from mae_skill.resolve import Resolution, raise_all

from mae_runners.training.preemption import Preemption, StoppedBeforeTraining

# What takes long to import is imported inside functions: `main` handles signals first.
if TYPE_CHECKING:
    from mae_skill.spec import ExperimentSpec

    from mae_runners.context import RunContext

PEER_SECONDS = 3.0
"""How long a rank that lost its peers waits for one of them to say why."""
BUG = "internal error: this is a bug in mae; the log holds the traceback"
STOPPED_EARLY = "stopped by a signal before anything was trained; there was nothing to save"
CLAIMED = "MAE_RESULTS_CLAIMED"
"""Set for ranks whose starter holds the results folder."""
ACTIONS = ("train", "evaluate", "inference", "export", "gen_trt_engine")
DISTRIBUTED = ("train", "evaluate", "inference")


@dataclass
class Run:
    """How far a run has come, for the handlers of its errors.

    Attributes:
        folder: the job folder; None until the spec is read.
        context: None until the action starts.
        began: when this process began, as the clock of files says it.
    """

    folder: Path | None = None
    context: RunContext | None = None
    began: float = field(default_factory=time.time)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one action and returns the process exit code; what it prints holds no secret."""
    whole_streams()
    run = Run()
    try:
        with clean_output(), contextlib.ExitStack() as held:
            code = act(argv, run, held)
            sys.stdout.flush()
            sys.stderr.flush()
        return code
    except BrokenPipeError:
        if not is_closed():
            raise
        drop_output()
        if run.context is not None:
            run.context.status.failure("stopped: the reader of its output is gone")
        return leave(CLOSED_PIPE_EXIT)


def act(argv: Sequence[str] | None, run: Run, held: contextlib.ExitStack) -> int:
    """Runs one action, reports how it ended and returns the exit code.

    Args:
        held: what is given back at the end.

    Raises:
        BrokenPipeError: whoever read the output is gone.
    """
    args = parse(argv)
    preemption = Preemption() if args.action == "train" else None
    try:
        return start(args, preemption, run, held)
    except PreemptedError as error:
        return stop(error.message, run, str(error))
    except StoppedBeforeTraining:
        return stop(STOPPED_EARLY, run)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return leave(130)
    except Exception as error:
        if isinstance(error, BrokenPipeError) and is_closed():
            raise
        if preemption is not None and preemption.came_early:
            # Whatever fails then follows from it: a library may have taken the signal for a fault
            # of its own import, and gone on with half of it.
            return stop(STOPPED_EARLY, run)
        if isinstance(error, MaeError):
            return fail(error, run)
        first = failed_first(run, error)
        if first is not None:
            return leave(first)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return fail(no_room(error, run), run)
        if record_failure(run, internal_error(error, BUG)):
            traceback.print_exc()
        return leave(1)
    finally:
        if preemption is not None:
            preemption.release()


def failed_first(run: Run, error: Exception) -> int | None:
    """The exit code of the rank whose failure this one's `error` follows from; None otherwise.

    When a rank fails, the collective operations of the others break. What they say of it explains
    nothing and would stand after the true error, so it is not printed.
    """
    if run.folder is None or not is_one_of_several():
        return None
    patience = PEER_SECONDS if _is_of_the_connection(error) else 0.0
    deadline = time.monotonic() + patience
    while True:
        with contextlib.suppress(OSError, ValueError):
            if _is_of_this_run(run, run.folder / "error.json"):
                first = read_json(run.folder / "error.json")
                if first.get("rank") != own_rank():
                    return int(first.get("exit_code") or 1)
        if time.monotonic() >= deadline:
            return None
        time.sleep(0.05)


def _is_of_the_connection(error: Exception) -> bool:
    text = f"{type(error).__name__} {error}".lower()
    words = ("gloo", "nccl", "connection closed by peer", "distbackend", "distnetwork", "c10d")
    return isinstance(error, (RuntimeError, OSError)) and any(word in text for word in words)


def fail(error: MaeError, run: Run) -> int:
    """Reports an error that the user can fix; returns the exit code."""
    redact_error(error)
    as_json = "MAE_JSON" in os.environ  # set by `mae ACTION --json`
    document = json.dumps(error.to_dict(), default=str)
    if record_failure(run, error.to_dict()):  # of several ranks one speaks
        print(document if as_json else f"error: {error}", file=sys.stderr)
    return leave(error.exit_code)


def no_room(error: OSError, run: Run) -> StorageError:
    return StorageError(
        f"no room on the disk: {error}",
        field="results_dir",
        got=None if run.folder is None else str(run.folder),
        hint="make room, then resume the job or run the same command again",
    )


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments; exits with 2 where they are wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m mae_runners", description="Run one MAE action."
    )
    parser.add_argument("action", choices=ACTIONS)
    parser.add_argument(
        "-e",
        "--experiment_spec",
        required=True,
        metavar="FILE",
        help="spec file, YAML or JSON; - reads standard input",
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="dotted overrides, such as train.num_epochs=2",
    )
    return parser.parse_intermixed_args(argv)


def start(
    args: argparse.Namespace, preemption: Preemption | None, run: Run, held: contextlib.ExitStack
) -> int:
    """Reads the spec, then runs the action here or as several ranks; returns the exit code."""
    from mae_runners.context import ranks_of_environment

    ranks_of_environment()  # what is wrong with them is said before anything is read
    found = resolve(args.action, args.experiment_spec, args.overrides)
    if isinstance(found.spec.get("results_dir"), str):
        folder = Path(found.spec["results_dir"]).expanduser().absolute()
        held.enter_context(claimed(folder))
        run.folder = folder
    raise_all(found.errors, args.action)

    from mae_skill.spec import ExperimentSpec

    from mae_runners.context import job_dir_of, make_context

    spec = ExperimentSpec.model_validate(found.spec)
    if run.folder is None:
        held.enter_context(claimed(job_dir_of(spec)))
        run.folder = job_dir_of(spec)
    ranks = ranks_to_start(args.action, spec)
    if ranks is not None:
        return start_ranks(args.action, found.spec, ranks, run.folder)

    run.context = make_context(args.action, spec, found.provenance)
    run.context.preemption = preemption
    if run.context.is_main:  # printed when the spec was judged
        run.context.warnings += [str(warning) for warning in found.warnings]
    run_action(args.action, spec, run.context)
    return 0


def resolve(action: str, source: str, overrides: Sequence[str]) -> Resolution:
    """The spec, judged as `mae plan` judges it.

    A job, and a rank of a run, are handed a spec whose data, files and devices were looked at
    before.
    """
    from mae_sdk.data.progress import heard
    from mae_sdk.plan.layers import resolve_spec

    looked_at = bool({"RANK", "MAE_JOB_DIR"} & os.environ.keys())
    asked = parse_overrides(overrides)
    with heard(lambda line: print(line, file=sys.stderr, flush=True)):
        found, secrets = resolve_spec(Bundle.load(), action, source, asked, looks=not looked_at)
    # Nothing that a run writes holds a secret of its spec; its ranks inherit them.
    os.environ.update(secrets)
    if not found.errors and own_rank() == 0:
        for warning in found.warnings:
            print(f"warning: {warning}", file=sys.stderr)
    return found


@contextlib.contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Hold a results folder: two runs in one would mix their records and checkpoints.

    The lock ends with this process. One process of a run holds it: the starter of its ranks, or
    rank 0. Where the file system has no locks, nothing is held.

    Raises:
        UsageError: another run holds it.
    """
    is_first = all(os.environ.get(name, "0") == "0" for name in ("RANK", "NODE_RANK"))
    held = None
    if is_first and CLAIMED not in os.environ:
        try:
            held = files.lock(folder / ".run.lock", wait=False)
            _claims.add(held)
        except BlockingIOError:
            raise UsageError(
                "another run is writing into this folder",
                field="results_dir",
                got=str(folder),
                expected="a folder of its own for every run at the same time",
                hint="wait for its end, or name another results_dir",
            ) from None
        except OSError:  # where the folder cannot be written, what writes into it says so
            pass
    try:
        yield
    finally:
        if held is not None:
            _claims.discard(held)
            held.close()


_claims: set[files.Lock] = set()


def _drop_claims() -> None:
    for held in _claims:
        held.leave()
    _claims.clear()


# A loader's worker that outlives a killed run must not hold the folder for it.
os.register_at_fork(after_in_child=_drop_claims)


def ranks_to_start(action: str, spec: ExperimentSpec) -> int | None:
    """How many ranks this process has to start on this node, or None when it is itself the (only)
    rank.

    Raises:
        UsageError: more nodes are asked for than the orchestrator names.
    """
    if "RANK" in os.environ or action not in DISTRIBUTED:
        return None

    from mae_runners.context import (
        device_kind,
        environment_number,
        processes_per_node,
        require_meeting_place,
    )

    section = getattr(spec, action)
    count = processes_per_node(section)
    nodes = environment_number("WORLD_SIZE", 1)
    if nodes > 1:
        require_meeting_place(f"WORLD_SIZE={nodes} names {nodes} nodes", "NODE_RANK")
        if environment_number("NODE_RANK", 0) >= nodes:
            raise UsageError(
                "there is no such node",
                field="NODE_RANK",
                got=os.environ["NODE_RANK"],
                expected=f"a number below WORLD_SIZE, which counts nodes and is {nodes}",
            )
    if section.num_nodes > nodes:
        raise UsageError(
            f"{section.num_nodes} nodes are asked for and the orchestrator's variables name "
            f"{nodes}",
            field=f"{action}.num_nodes",
            got=section.num_nodes,
            expected="WORLD_SIZE (number of nodes), NODE_RANK, MASTER_ADDR and MASTER_PORT in the "
            "environment of each node",
            hint=f"set them, or {action}.num_nodes=1",
        )
    if count * nodes == 1:
        return None
    device_kind(spec, action)  # more devices than exist is an error before any rank starts
    return count


def start_ranks(action: str, resolved: dict[str, Any], count: int, folder: Path) -> int:
    """Runs this action again as `count` ranks and returns their common exit code. The key travels
    by environment only."""
    from mae_sdk.run.process_group import run_ranks

    from mae_runners.context import ENCRYPTION_VARIABLE, make_folder, resolve_key

    env = {**os.environ, CLAIMED: "1"}
    key = resolve_key(resolved.get("encryption_key"))
    if key:
        env[ENCRYPTION_VARIABLE] = key
        resolved = {**resolved, "encryption_key": f"env:{ENCRYPTION_VARIABLE}"}

    make_folder(folder)
    (folder / "error.json").unlink(missing_ok=True)
    with temporary_folder("mae-spec-") as temporary:
        path = temporary / "spec.json"
        path.write_text(json.dumps(resolved))
        command = [sys.executable, "-m", "mae_runners", action, "-e", str(path)]
        return int(run_ranks(command, count, env))


def run_action(action: str, spec: ExperimentSpec, context: RunContext) -> dict[str, Any]:
    """Runs the action and writes `result.json` last; only rank 0 writes."""
    module = importlib.import_module(f"mae_runners.actions.{action}")
    if context.world_size == 1:
        # With several ranks, their starter has removed it: a slow rank must not erase the error
        # of a fast one.
        (context.results_dir / "error.json").unlink(missing_ok=True)

    from mae_runners.data.judged import judge

    context.status.started(f"{action} started")
    judge(action, spec, context)
    result: dict[str, Any] = module.run(spec, context)
    if not context.is_main:
        return result

    if context.warnings:
        result["warnings"] = list(context.warnings)
    more: dict[str, Any] = {}
    if result.get("doubts"):
        more = {"doubts": result["doubts"]}
    if context.data:
        result["data"] = context.data
        more["data"] = {"warnings": context.data["warnings"]}
    context.status.success(f"{action} finished", kpi=result.get("kpis", {}), **more)
    write_json(context.action_dir / "result.json", result)
    if context.action_dir != context.results_dir / action:
        # The job folder's contract names this path.
        write_json(context.results_dir / action / "result.json", result)
    context.report("COMPLETE")
    return result


def own_rank() -> int:
    """``RANK``, or 0 where it is no number (which `ranks_of_environment` refuses)."""
    text = os.environ.get("RANK", "0")
    return int(text) if text.isdigit() else 0


def is_one_of_several() -> bool:
    """Whether this process is a rank beside others."""
    world = os.environ.get("WORLD_SIZE", "1")
    return "RANK" in os.environ and world.isdigit() and int(world) > 1


def record_failure(run: Run, error: dict[str, Any]) -> bool:
    """Leaves `error.json` (the first rank to fail wins) and a FAILURE line.

    Returns:
        Whether this is the error to show: False where another rank has left its own.
    """
    folder = run.folder
    if folder is None:
        job = os.environ.get("MAE_JOB_DIR")
        if not job:
            return True
        folder = Path(job)

    entry = {**redact_tree(error, known()), "rank": own_rank()}
    attempt = os.environ.get("MAE_ATTEMPT", "")
    if attempt.isdigit():
        entry["attempt"] = int(attempt)
    with contextlib.suppress(OSError):  # a full disk: what is printed has to do
        if not _leave_error(run, folder / "error.json", entry):
            return False
        if run.context is not None:
            run.context.status.failure(error["message"], error=error)
    return True


def _is_of_this_run(run: Run, error: Path) -> bool:
    """Whether another rank of this run has left the file: whoever starts ranks removes an older
    one; of ranks started by hand it is known by its time.

    Raises:
        OSError: there is none.
    """
    written = error.stat().st_mtime
    return bool({CLAIMED, "MAE_JOB_DIR"} & os.environ.keys()) or written >= run.began


def _leave_error(run: Run, target: Path, entry: dict[str, Any]) -> bool:
    """Writes the error; of several ranks only the first one. Returns whether it did."""
    if not is_one_of_several():
        write_json(target, entry)
        return True
    with contextlib.suppress(OSError):
        if not _is_of_this_run(run, target):
            target.unlink()
    try:
        with files.atomic_file(target, exclusive=True) as temporary:
            temporary.write_text(json.dumps(entry), encoding="utf-8")
    except FileExistsError:
        return False
    return True


def stop(message: str, run: Run, shown: str | None = None) -> int:
    """Reports that the run was preempted; returns the exit code."""
    if run.context is not None:
        run.context.status.running(message)
    print(shown or message, file=sys.stderr)
    return leave(PreemptedError.exit_code)


def leave(code: int) -> int:
    """The exit code; a failed rank exits at once, since tearing down a process group that others
    still use can hang."""
    if is_one_of_several():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


if __name__ == "__main__":
    sys.exit(main())
