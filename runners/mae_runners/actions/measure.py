"""Times the first steps of a training run.

python -m mae_runners.actions.measure -e spec.yaml [--steps N]

The run is the real one: data, loader, model, loss, optimizer, in one process on one device. It is
left after `N` optimizer steps, before the first checkpoint, and nothing of it is kept. The last
line of standard output is a JSON object: ``steps, seconds_per_step, images_per_second,
startup_seconds, peak_memory_mb, device``.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from mae_sdk.files import temporary_folder
from mae_skill.errors import MaeError
from mae_skill.resolve import raise_all

if TYPE_CHECKING:
    from mae_skill.spec import ExperimentSpec

STEPS = 6
WARM_UP = 2  # steps not counted: allocations, the choice of kernels, the loader filling up


class _Enough(Exception):
    """Enough steps were timed."""


class _Clock:
    """Takes the place of the progress display and notes when each optimizer step ended."""

    def __init__(self, steps: int, synchronize: Callable[[], None]) -> None:
        self.steps, self.synchronize = steps, synchronize
        self.ends: list[float] = []

    def advance(self, count: int = 1, **values: float) -> None:
        """One more step has been made."""
        self.synchronize()
        self.ends.append(time.monotonic())
        if len(self.ends) >= self.steps:
            raise _Enough

    def close(self) -> None:
        """As the display's; there is nothing to put away."""


def main(argv: Sequence[str] | None = None) -> int:
    """Measures and prints; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m mae_runners.actions.measure",
        description="Time the first steps of a training run.",
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
        help=f"optimizer steps that are timed, after {WARM_UP} that are not",
    )
    args = parser.parse_args(argv)
    try:
        measured = time_steps(args.experiment_spec, args.steps)
    except MaeError as error:
        print(f"error: {error}", file=sys.stderr)
        print(json.dumps({"error": error.to_dict()}, default=str))
        return error.exit_code
    print(json.dumps(measured))
    return 0


def time_steps(source: str, steps: int = STEPS) -> dict[str, Any]:
    """Times the first `steps` optimizer steps, after the warm-up, of the spec in the file `source`.

    Raises:
        MaeError: whatever the run itself would end with.
    """
    started = time.monotonic()
    from mae_skill.spec import ExperimentSpec

    from mae_runners.__main__ import resolve

    found = resolve("train", source, [])
    raise_all(found.errors, "train")
    resolved = found.spec
    resolved["train"] |= {
        "num_gpus": 1,
        "gpu_ids": resolved["train"]["gpu_ids"][:1] or [0],
        "num_nodes": 1,
        "checkpoint_interval": 10**6,
        "validation_interval": 10**6,
        "resume_training_checkpoint_path": None,
    }
    resolved["wandb"] = {**(resolved.get("wandb") or {}), "enable": False}
    with temporary_folder("mae-measured-") as folder:
        resolved["results_dir"], resolved["train"]["results_dir"] = str(folder), None
        return _run(ExperimentSpec.model_validate(resolved), found.provenance, steps, started)


def _run(
    spec: ExperimentSpec, provenance: Mapping[str, Any], steps: int, started: float
) -> dict[str, Any]:
    import torch
    from mae_sdk.jobs.status import StatusWriter

    from mae_runners.actions import train
    from mae_runners.context import RunContext, make_context

    context = make_context("train", spec, provenance)
    device = context.device
    cuda = device.type == "cuda"

    def synchronize() -> None:
        if cuda:
            torch.cuda.synchronize(device)

    clock = _Clock(WARM_UP + steps, synchronize)

    class TimedContext(RunContext):
        @contextmanager
        def progress(self, total: int, description: str, initial: int = 0) -> Iterator[Any]:
            yield clock

    timed = TimedContext(**{**vars(context), "status": StatusWriter(None)})
    began = time.monotonic()
    with contextlib.suppress(_Enough):
        train.run(spec, timed)
    peak = (
        torch.cuda.max_memory_allocated(device)
        if cuda
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    )

    ends = clock.ends[WARM_UP - 1 :] if len(clock.ends) > WARM_UP else clock.ends
    gaps = [after - before for before, after in itertools.pairwise(ends)]
    # A run of one step in all: no better is known than the time from its start.
    seconds = statistics.median(gaps or [clock.ends[0] - began])
    batch = int(spec.dataset.batch_size) * int(spec.train.accum_grad_batches)
    return {
        "steps": max(1, len(gaps)),
        "seconds_per_step": round(seconds, 5),
        "images_per_second": round(batch / seconds, 2),
        "startup_seconds": round(clock.ends[0] - started, 2),
        "peak_memory_mb": round(peak / 2**20, 1),
        "device": torch.cuda.get_device_name(device) if cuda else "cpu",
    }


if __name__ == "__main__":
    sys.exit(main())
