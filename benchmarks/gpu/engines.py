"""Engines on the GPU: built in every precision, run, compared with PyTorch on the same images, and
timed.

With `tensorrt` in full. `tensorrt_rtx` also builds where there is no GPU; its engines are run where
there is one.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from mae_runners.actions import export, gen_trt_engine
from mae_runners.context import RunContext
from mae_runners.deploy.eval_images import gate_images
from mae_runners.deploy.parity import compare, thresholds_for
from mae_runners.deploy.runtimes import measure, open_runtime, run_batch
from mae_runners.deploy.tensorrt import load_backend
from mae_runners.models import build_from_config, checkpoint
from mae_sdk.jobs.status import StatusWriter
from mae_skill.errors import DependencyError
from mae_skill.spec import ExperimentSpec

from benchmarks.gpu.numerics import disturb, write_images
from benchmarks.gpu.report import Check, attempt
from benchmarks.training import Setting

CLASSES = ["class_0", "class_1"]
PRECISIONS = ("fp32", "fp16", "bf16", "int8")


def context_of(action: str, folder: Path) -> RunContext:
    """One process that writes under ``folder/<action>``."""
    (folder / action).mkdir(parents=True, exist_ok=True)
    return RunContext(
        action, folder, folder / action, 0, 0, 1, torch.device("cpu"), StatusWriter(None)
    )


def spec_of(section: str, data: Path, **values: Any) -> ExperimentSpec:
    """A spec with one section and images for calibration and parity."""
    return ExperimentSpec.model_validate(
        {"dataset": {"val_data_sources": str(data), "num_workers_per_gpu": 0}, section: values}
    )


def classifier(family: str, smoke: bool, folder: Path) -> Path:
    """A checkpoint of a classifier whose every part matters (a fresh head is zero)."""
    torch.manual_seed(0)
    setting = Setting(small=smoke)
    config = {
        "arch": setting.arch(family),
        "input_size": [setting.size] * 2,
        "num_classes": 2,
        "global_pool": True,
        "drop_path_rate": 0.0,
    }
    model = build_from_config(config)
    heads = model.head_parameter_names()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in heads and parameter.dim() > 1:
                parameter.normal_(std=0.2)
    disturb(model.parameters(), 0.01)
    path = folder / f"{family}.pth"
    meta = checkpoint.CheckpointMeta.for_model(model, classes=CLASSES)
    checkpoint.save(
        {
            "state_dict": checkpoint.model_state(model),
            "epoch": 0,
            "global_step": 0,
            "mae": meta.to_dict(),
        },
        path,
        None,
    )
    return path


def build(
    backend: str, family: str, precision: str, smoke: bool, folder: Path
) -> tuple[Path, Path, dict[str, Any]]:
    """Checkpoint, engine and the engine's description; the ONNX file in between is made once."""
    data = folder / "images"
    weights = folder / f"{family}.pth"
    onnx_file = folder / f"{family}.onnx"
    if not onnx_file.exists():
        classifier(family, smoke, folder)
        export.run(
            spec_of("export", data, checkpoint=str(weights), onnx_file=str(onnx_file)),
            context_of("export", folder),
        )
    engine = folder / f"{family}-{precision}-{backend}.engine"
    values = {
        "onnx_file": str(onnx_file),
        "backend": backend,
        "trt_engine": str(engine),
        "tensorrt": {"data_type": precision, "max_batch_size": 64},
        # With no GPU the library would build for every kind it knows: one is enough to see that it
        # builds.
        "targets": [] if torch.cuda.is_available() else ["8.6"],
    }
    result = gen_trt_engine.run(
        spec_of("gen_trt_engine", data, **values), context_of("gen_trt_engine", folder)
    )
    return weights, engine, result["engine"]


def engine_check(
    backend: str, family: str, precision: str, device: str, smoke: bool, folder: Path
) -> Check:
    """One engine: built, and on a GPU compared and timed."""
    name = f"{backend}: {family} {precision}"
    weights, engine, description = build(backend, family, precision, smoke, folder)
    figures = {
        "megabytes": round(description["engine_bytes"] / 1e6, 2),
        "targets": ",".join(description["targets"]),
    }
    if device == "cpu":
        return Check(name, None, figures, "built; an engine runs on a GPU, and none is in use")
    place = torch.device(device, torch.cuda.current_device())
    ours, built = open_runtime(weights, place), open_runtime(engine, place)
    images, _ = gate_images(spec_of("gen_trt_engine", folder / "images"), built.meta)
    with torch.no_grad():
        reference, found = run_batch(ours, images), run_batch(built, images)
    report = compare(
        reference.cpu().numpy(), found.cpu().numpy(), thresholds_for(precision.lower()), logits=True
    )
    speed = measure(built, images)
    figures |= {
        "cosine": report.cosine_min,
        "max_abs": report.max_abs,
        "top1": report.top1_agreement,
    }
    figures |= {
        "ms of one image": speed["batch_1"]["median_ms"],
        "images_per_s": speed["best"]["images_per_s"],
    }
    return Check(name, report.passed, figures, "; ".join(report.failures) or None)


def run(device: str, smoke: bool) -> list[Check]:
    """All families and precisions for each library that is installed; the smoke run builds one
    engine."""
    checks: list[Check] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_images(folder / "images")
        for backend in ("tensorrt", "tensorrt_rtx"):
            try:
                load_backend(backend)
            except DependencyError as error:
                checks.append(
                    attempt(backend, lambda b=backend, e=error: Check(b, None, reason=str(e.hint)))
                )
                continue
            if backend == "tensorrt" and device == "cpu":
                checks.append(
                    attempt(
                        backend, lambda b=backend: Check(b, None, reason="it builds on a GPU only")
                    )
                )
                continue
            families, precisions = (
                (("convnextv2",), ("fp16",))
                if smoke
                else (("vit", "convnextv2", "hiera"), PRECISIONS)
            )
            for family in families:
                for precision in precisions:
                    label = f"{backend}: {family} {precision}"
                    checks.append(
                        attempt(
                            label,
                            lambda b=backend, f=family, p=precision: engine_check(
                                b, f, p, device, smoke, folder
                            ),
                        )
                    )
    return checks
