"""The command behind `benchmarks/gpu.sh`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.training import CASES, Setting

PARTS = ("numerics", "speed", "engines")
RESULTS = Path(__file__).resolve().parent.parent / "results"
NO_GPU = 7  # the exit code of a missing dependency, as everywhere in this project


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = argparse.ArgumentParser(
        prog="benchmarks/gpu.sh",
        description="Numerics on a GPU, speed and memory against transformers' ViTMAE, "
        "hiera-transformer and masked-dense FCMAE, and TensorRT engines. Ends with 1 where a check "
        "of numbers failed, with 7 where there is no GPU.",
    )
    made.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    made.add_argument(
        "--cases", nargs="+", choices=CASES, default=list(CASES), help="what is timed"
    )
    made.add_argument("--batch", type=int, help="images per step (default 128; 2 in a smoke run)")
    made.add_argument(
        "--precision",
        choices=("bf16", "fp16", "fp32"),
        default="bf16",
        help="of what is timed (default bf16)",
    )
    made.add_argument(
        "--rounds", type=int, help="timings of each side, interleaved (default 9; 1 in a smoke run)"
    )
    made.add_argument(
        "--device", choices=("cuda", "cpu"), default="cuda", help="cpu: with --smoke only"
    )
    made.add_argument(
        "--smoke",
        action="store_true",
        help="tiny shapes: shows that the code runs; its figures mean nothing",
    )
    made.add_argument(
        "-o",
        "--output",
        type=Path,
        help="JSON file (default benchmarks/results/gpu.json; none in a smoke run)",
    )
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the chosen parts; returns the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = parser().parse_args(given)
    if options.device == "cpu" and not options.smoke:
        parser().error(
            "--device cpu goes with --smoke: figures for the CPU come from benchmarks/training.py"
        )
    if options.device == "cuda" and not torch.cuda.is_available():
        print(
            "no GPU: PyTorch sees no CUDA device here, so there is nothing to measure.\n"
            "Run this on a machine with an NVIDIA GPU and a CUDA build of PyTorch, or rehearse it: "
            "benchmarks/gpu.sh --device cpu --smoke",
            file=sys.stderr,
        )
        return NO_GPU
    parts: dict[str, list[Any]] = {}
    if "numerics" in options.parts:
        from benchmarks.gpu import numerics

        parts["numerics"] = numerics.run(options.device, options.smoke)
    if "speed" in options.parts:
        parts["speed"] = timed_cases(options)
    if "engines" in options.parts:
        from benchmarks.gpu import engines

        parts["engines"] = engines.run(options.device, options.smoke)
    output = options.output or (None if options.smoke else RESULTS / "gpu.json")
    if output is not None:
        from benchmarks.gpu import report

        report.write(
            output, " ".join(["benchmarks/gpu.sh", *given]), options.device, options.smoke, parts
        )
        print(f"figures written to {output}")
    checks = parts.get("numerics", []) + parts.get("engines", [])
    failed = [check for check in checks if check.passed is False]
    passed = sum(check.passed is True for check in checks)
    left_out = len(checks) - passed - len(failed)
    print(f"{passed} checks passed, {len(failed)} failed, {left_out} not run")
    return 1 if failed else 0


def timed_cases(options: argparse.Namespace) -> list[dict[str, Any]]:
    """The figures of every chosen case, printed as they come."""
    from benchmarks.gpu import speed

    setting = Setting(
        batch=options.batch or (2 if options.smoke else 128),
        device=options.device,
        precision=options.precision,
        optimizer=True,
        small=options.smoke,
    )
    if options.device == "cuda":
        # For every side: TF32 for what stays in fp32, and the fastest convolution is sought.
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = (
            torch.backends.cudnn.benchmark
        ) = True
    results = []
    for case in options.cases:
        torch._dynamo.reset()
        result = speed.measure(case, setting, options.rounds or (1 if options.smoke else 9))
        results.append(result)
        print("\n".join(speed.lines(result)), flush=True)
    return results


if __name__ == "__main__":
    sys.exit(main())
