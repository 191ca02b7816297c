"""``python -m mae_runners.measure -e spec.yaml [--steps N]``: the first steps of a training run, timed; nothing of the run is kept.

The run is the real one: data, loader, model, loss, optimiser, in one process on one device. It is left after `N` optimiser steps, before
the first checkpoint. The last line of standard output is a JSON object: ``steps, seconds_per_step, images_per_second, startup_seconds,
peak_memory_mb, device``.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from mae_skill.errors import MaeError

STEPS = 6
WARM_UP = 2  # steps that are not counted: allocations, kernels being chosen, the loader filling up


class _Enough(Exception):
    """Enough steps were timed."""


class _Clock:
    """Stands where the progress display would and notes when each optimiser step ended."""

    def __init__(self, steps: int, settle: Callable[[], None]) -> None:
        self.steps, self.settle = steps, settle
        self.ends: list[float] = []

    def advance(self, count: int = 1, **values: float) -> None:
        """One more step has been made."""
        self.settle()
        self.ends.append(time.monotonic())
        if len(self.ends) >= self.steps:
            raise _Enough

    def close(self) -> None:
        """Nothing to put away."""


def main(argv: Sequence[str] | None = None) -> int:
    """Measures and prints; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m mae_runners.measure", description="Time the first steps of a training run."
    )
    parser.add_argument(
        "-e",
        "--experiment_spec",
        required=True,
        metavar="FILE",
        help="the spec of the train action",
    )
    parser.add_argument(
        "--steps",
        type=int,
        default=STEPS,
        help=f"optimiser steps that are timed, after {WARM_UP} that are not",
    )
    args = parser.parse_args(argv)
    try:
        found = measure(args.experiment_spec, args.steps)
    except MaeError as error:
        print(f"error: {error}", file=sys.stderr)
        print(json.dumps({"error": error.to_dict()}, default=str))
        return error.exit_code
    print(json.dumps(found))
    return 0


def measure(source: str, steps: int = STEPS) -> dict[str, Any]:
    """The figures of the first `steps` optimiser steps after the warm-up of the train spec in the file `source`.

    Raises:
        MaeError: whatever the run itself would end with.
    """
    started = time.monotonic()
    from mae_skill.spec import ExperimentSpec

    from mae_runners.__main__ import resolve

    resolved, provenance = resolve("train", source, [])
    resolved["train"] |= {
        "num_gpus": 1,
        "gpu_ids": resolved["train"]["gpu_ids"][:1] or [0],
        "num_nodes": 1,
    }
    resolved["train"] |= {
        "checkpoint_interval": 10**6,
        "validation_interval": 10**6,
        "resume_training_checkpoint_path": None,
    }
    resolved["wandb"] = {**(resolved.get("wandb") or {}), "enable": False}
    with tempfile.TemporaryDirectory(prefix="mae-measure-") as folder:
        resolved["results_dir"], resolved["train"]["results_dir"] = folder, None
        return _run(ExperimentSpec.model_validate(resolved), provenance, steps, started)


def _run(spec: Any, provenance: dict[str, Any], steps: int, started: float) -> dict[str, Any]:
    import torch
    from mae_sdk.jobs.status import StatusWriter

    from mae_runners.actions import train
    from mae_runners.context import RunContext, make_context

    context = make_context("train", spec, provenance)
    cuda = context.device.type == "cuda"
    clock = _Clock(
        WARM_UP + steps, (lambda: torch.cuda.synchronize(context.device)) if cuda else lambda: None
    )

    class Timed(RunContext):
        @contextmanager
        def progress(self, total: int, description: str, initial: int = 0) -> Iterator[Any]:
            yield clock

    timed = Timed(**{**vars(context), "status": StatusWriter(None)})
    began = time.monotonic()
    with contextlib.suppress(_Enough):
        train.run(spec, timed)
    peak = (
        torch.cuda.max_memory_allocated(timed.device)
        if cuda
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    )
    ends = clock.ends[WARM_UP - 1 :] if len(clock.ends) > WARM_UP else clock.ends
    gaps = [after - before for before, after in itertools.pairwise(ends)] or [
        clock.ends[0] - began
    ]  # one step in all: no better is known
    seconds = statistics.median(gaps)
    batch = int(spec.dataset.batch_size) * int(spec.train.accum_grad_batches)
    return {
        "steps": len(gaps),
        "seconds_per_step": round(seconds, 5),
        "images_per_second": round(batch / seconds, 2),
        "startup_seconds": round(clock.ends[0] - started, 2),
        "peak_memory_mb": round(peak / 2**20, 1),
        "device": torch.cuda.get_device_name(timed.device) if cuda else "cpu",
    }


if __name__ == "__main__":
    sys.exit(main())
