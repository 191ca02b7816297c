"""``python -m mae_runners <action> -e spec.yaml [key=value …]``: one action, in this process or as
ranks of one run.

Exit codes are those of `mae_skill.errors`; 75 = preempted after saving. Errors leave
``<results_dir>/error.json``; success leaves ``<results_dir>/<action>/result.json``, written last.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import tempfile
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mae_sdk.files import write_json
from mae_skill.errors import MaeError, PreemptedError, UsageError
from mae_skill.resolve import Resolution, raise_all

from mae_runners.training.preemption import Preemption, StoppedBeforeTraining

# What takes long to import is imported inside functions: `main` handles signals first.
if TYPE_CHECKING:
    from mae_skill.spec import ExperimentSpec

    from mae_runners.context import RunContext

ACTIONS = ("train", "evaluate", "inference", "export", "gen_trt_engine")
DISTRIBUTED = ("train", "evaluate", "inference")


@dataclass
class Run:
    """How far a run has come, for the handlers of its errors.

    Attributes:
        folder: the job folder; None until the spec is read.
        context: None until the action starts.
    """

    folder: Path | None = None
    context: RunContext | None = None


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one action and returns the process exit code."""
    args = parse(argv)
    preemption = Preemption() if args.action == "train" else None
    run = Run()
    try:
        return start(args, preemption, run)
    except PreemptedError as error:
        return stop(error.message, run, str(error))
    except StoppedBeforeTraining:
        return stop(
            "stopped by a signal before anything was trained; there was nothing to save", run
        )
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return leave(130)
    except MaeError as error:
        as_json = "MAE_JSON" in os.environ  # set by `mae ACTION --json`
        document = json.dumps(error.to_dict(), ensure_ascii=False, default=str)
        print(document if as_json else f"error: {error}", file=sys.stderr)
        record_failure(run, error.to_dict())
        return leave(error.exit_code)
    except Exception as error:
        traceback.print_exc()
        record_failure(run, internal_error(error))
        return leave(1)
    finally:
        if preemption is not None:
            preemption.release()


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


def start(args: argparse.Namespace, preemption: Preemption | None, run: Run) -> int:
    """Reads the spec, then runs the action here or as several ranks; returns the exit code."""
    found = resolve(args.action, args.experiment_spec, args.overrides)
    if isinstance(found.spec.get("results_dir"), str):
        run.folder = Path(found.spec["results_dir"]).expanduser().absolute()
    raise_all(found.errors, args.action)

    from mae_skill.spec import ExperimentSpec

    from mae_runners.context import job_dir_of, make_context

    spec = ExperimentSpec.model_validate(found.spec)
    run.folder = job_dir_of(spec)
    ranks = ranks_to_start(args.action, spec)
    if ranks is not None:
        return start_ranks(args.action, found.spec, ranks, run.folder)

    run.context = make_context(args.action, spec, found.provenance)
    run.context.preemption = preemption
    run_action(args.action, spec, run.context)
    return 0


def resolve(action: str, source: str, overrides: Sequence[str]) -> Resolution:
    """The spec, judged as `mae plan` judges it.

    A job, and a rank of a run, are handed a spec whose data, files and devices were looked at
    before.
    """
    from mae_sdk.plan.layers import resolve_spec
    from mae_skill.bundle import Bundle
    from mae_skill.reader import parse_override

    looked_at = bool({"RANK", "MAE_JOB_DIR"} & os.environ.keys())
    asked = dict(parse_override(text) for text in overrides)
    found, secrets = resolve_spec(Bundle.load(), action, source, asked, looks=not looked_at)
    # Nothing that a run writes holds a secret of its spec; its ranks inherit them.
    os.environ.update(secrets)
    if not found.errors and int(os.environ.get("RANK", 0)) == 0:
        for warning in found.warnings:
            print(f"warning: {warning}", file=sys.stderr)
    return found


def ranks_to_start(action: str, spec: ExperimentSpec) -> int | None:
    """How many ranks this process has to start on this node, or None when it is itself the (only)
    rank.

    Raises:
        UsageError: more nodes are asked for than the orchestrator names.
    """
    if "RANK" in os.environ or action not in DISTRIBUTED:
        return None

    from mae_runners.context import device_kind, environment_number, processes_per_node

    section = getattr(spec, action)
    count = processes_per_node(section)
    nodes = environment_number("WORLD_SIZE", 1)
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

    from mae_runners.context import ENCRYPTION_VARIABLE, resolve_key

    env = dict(os.environ)
    key = resolve_key(resolved.get("encryption_key"))
    if key:
        env[ENCRYPTION_VARIABLE] = key
        resolved = {**resolved, "encryption_key": f"env:{ENCRYPTION_VARIABLE}"}

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "error.json").unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(prefix="mae-spec-") as temporary:
        path = Path(temporary) / "spec.json"
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

    context.status.started(f"{action} started")
    result: dict[str, Any] = module.run(spec, context)
    if not context.is_main:
        return result

    context.status.success(f"{action} finished", kpi=result.get("kpis", {}))
    write_json(context.action_dir / "result.json", result)
    if context.action_dir != context.results_dir / action:
        # The job folder's contract names this path.
        write_json(context.results_dir / action / "result.json", result)
    return result


def internal_error(error: Exception) -> dict[str, Any]:
    """An unexpected exception in the form of `MaeError.to_dict`."""
    return {
        "code": "internal",
        "message": f"{type(error).__name__}: {error}",
        "field": None,
        "got": None,
        "expected": None,
        "hint": "internal error: this is a bug in mae; the log holds the traceback",
        "retryable": False,
        "exit_code": 1,
    }


def record_failure(run: Run, error: dict[str, Any]) -> None:
    """Leaves `error.json` (the first rank to fail wins) and a FAILURE line."""
    folder = run.folder
    if folder is None:
        job = os.environ.get("MAE_JOB_DIR")
        if not job:
            return
        folder = Path(job)

    target = folder / "error.json"
    if run.context is not None and run.context.world_size > 1 and target.exists():
        return
    entry = {**error, "rank": int(os.environ.get("RANK", 0))}
    attempt = os.environ.get("MAE_ATTEMPT", "")
    if attempt.isdigit():
        entry["attempt"] = int(attempt)
    write_json(target, entry)
    if run.context is not None:
        run.context.status.failure(error["message"], error=error)


def stop(message: str, run: Run, shown: str | None = None) -> int:
    """Reports that the run was preempted; returns the exit code."""
    if run.context is not None:
        run.context.status.running(message)
    print(shown or message, file=sys.stderr)
    return leave(PreemptedError.exit_code)


def leave(code: int) -> int:
    """The exit code; a failed rank exits at once, since tearing down a process group that others
    still use can hang."""
    if int(os.environ.get("WORLD_SIZE", 1)) > 1 and "RANK" in os.environ:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


if __name__ == "__main__":
    sys.exit(main())
