"""Engines of every family, stage and precision: built, and where an NVIDIA GPU is there also run, compared with torch and timed.

    python benchmarks/engines.py [--backend tensorrt_rtx|tensorrt] [--size 224] [--out benchmarks/results/engines_<backend>]

Without a GPU only ``tensorrt_rtx`` builds, and nothing is run: the table then says so. ``benchmarks/gpu.sh`` does all of it on a GPU.
Weights are random, with heads and GRN given values that matter. Exit 1 if an engine departs from its model.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import onnx
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from mae_runners.actions import export, gen_trt_engine  # noqa: E402
from mae_runners.checkpoint import load_model  # noqa: E402
from mae_runners.deploy import gate, onnx_export, runtimes, tensorrt_build  # noqa: E402
from mae_runners.deploy.images import gate_images  # noqa: E402
from mae_runners.deploy.parity import thresholds_for  # noqa: E402
from mae_skill.errors import DependencyError  # noqa: E402

from tests.support.deploy import make_context, make_model, make_spec, save_checkpoint, write_digits  # noqa: E402

ARCHS = ["vit_tiny_patch16", "convnextv2_atto", "hiera_tiny_224"]
TYPES = ["FP32", "FP16", "BF16", "INT8"]
BATCH = 16


def rows_of(arch: str, stage: str, size: int, backend: str, folder: Path) -> list[dict[str, Any]]:
    """One row a precision."""
    data = {"dataset__val_data_sources": str(folder / "digits")}
    checkpoint = save_checkpoint(make_model(arch, stage, size), folder / f"{arch}_{stage}.pth")
    onnx_file = folder / f"{arch}_{stage}.onnx"
    spec = make_spec(export__checkpoint=str(checkpoint), export__onnx_file=str(onnx_file), **data)
    export.run(spec, make_context("export", folder))
    meta = onnx_export.read_meta(onnx.load(str(onnx_file)), onnx_file)
    module, _ = load_model(checkpoint)
    images, _ = gate_images(spec, meta, BATCH)
    reference = gate.torch_outputs(onnx_export.deployable(module, meta), images)
    rows = []
    for data_type in TYPES:
        engine = folder / f"{arch}_{stage}_{data_type}.engine"
        values = {
            "gen_trt_engine__onnx_file": str(onnx_file),
            "gen_trt_engine__backend": backend,
            "gen_trt_engine__trt_engine": str(engine),
            "gen_trt_engine__tensorrt__data_type": data_type,
            "gen_trt_engine__tensorrt__opt_batch_size": BATCH,
            "gen_trt_engine__tensorrt__max_batch_size": BATCH,
            **data,
        }
        begin = time.perf_counter()
        built = gen_trt_engine.run(make_spec(**values), make_context("gen_trt_engine", folder))
        row: dict[str, Any] = {
            "arch": arch,
            "stage": stage,
            "size": [size, size],
            "data_type": data_type,
            "targets": built["engine"]["targets"],
            "build_s": round(time.perf_counter() - begin, 1),
            "engine_mb": round(built["engine"]["engine_bytes"] / 1e6, 1),
            "graph_cosine": built["parity"]["cosine_min"] if built["parity"] else None,
            "ran": torch.cuda.is_available(),
        }
        if torch.cuda.is_available():
            runtime = runtimes.open_runtime(engine, torch.device("cuda"))
            report = gate.judge(reference, runtimes.run_batch(runtime, images).numpy(), meta, thresholds_for(data_type.lower()))
            row |= {"cosine": report.cosine_min, "max_abs": report.max_abs, "top1": report.top1_agreement, "passed": report.passed}
            row["speed"] = runtimes.measure(runtime, images)
        rows.append(row)
        print(json.dumps(row), flush=True)
    return rows


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Engines of every family, built, run and timed.")
    parser.add_argument("--backend", default="tensorrt_rtx", choices=list(tensorrt_build.PACKAGES))
    parser.add_argument("--archs", nargs="+", default=ARCHS)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args(argv)
    try:
        library = tensorrt_build.load_backend(args.backend)
        tensorrt_build.choose_targets(library, args.backend, [])
    except DependencyError as error:
        print(f"{error}\n{error.hint}", file=sys.stderr)
        return error.exit_code
    with tempfile.TemporaryDirectory() as name:
        write_digits(Path(name) / "digits", per_class=4)
        rows = [
            row
            for arch in args.archs
            for stage in ("finetune", "pretrain")
            for row in rows_of(arch, stage, args.size, args.backend, Path(name))
        ]
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    about = {"backend": args.backend, "library": library.__version__, "torch": torch.__version__, "gpu": gpu}
    about["said"] = "built and run" if gpu else "built ahead of time on a machine with no GPU; not run"
    out = args.out or ROOT / "benchmarks" / "results" / f"engines_{args.backend}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n")
    return 0 if all(row.get("passed", True) for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
