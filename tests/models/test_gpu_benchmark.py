"""The GPU benchmark where there is no GPU: it refuses, its arithmetic is right, its checks can
fail, and its code runs on tiny shapes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gpu import numerics, speed
from benchmarks.gpu.__main__ import RESULTS, main
from benchmarks.gpu.report import Check, attempt
from benchmarks.training import Setting

SCRIPT = RESULTS.parent / "gpu.sh"


def test_without_a_gpu_it_refuses_and_names_the_rehearsal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main([]) == 7
    assert "benchmarks/gpu.sh --device cpu --smoke" in capsys.readouterr().err
    assert os.access(SCRIPT, os.X_OK)


def test_figures_for_the_cpu_are_not_its_business(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        main(["--device", "cpu"])
    assert refused.value.code == 2 and "benchmarks/training.py" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H200", 989),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA L40S", 362),
        ("NVIDIA L4", 121),
        ("NVIDIA GeForce GTX 1080", None),
    ],
)
def test_the_peak_of_a_device_goes_by_its_name(name: str, peak: float | None) -> None:
    assert speed.peak_tflops(name) == peak


def test_a_speed_case_on_tiny_shapes_writes_consistent_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        torch, "compile", lambda function, **_: function
    )  # tests/long/bench compiles
    before = sorted(RESULTS.iterdir())
    out = tmp_path / "gpu.json"
    assert (
        main(
            [
                "--device",
                "cpu",
                "--smoke",
                "--precision",
                "fp32",
                "--parts",
                "speed",
                "--cases",
                "vit_base",
                "-o",
                str(out),
            ]
        )
        == 0
    )
    report: dict[str, Any] = json.loads(out.read_text())
    assert (
        report["smoke"]
        and report["date"]
        and report["hardware"]["versions"]["torch"] == torch.__version__.split("+")[0]
    )
    assert report["command"].startswith("benchmarks/gpu.sh --device cpu --smoke")
    (case,) = report["speed"]
    assert case["errors"] == {} and list(case["sides"]) == [
        "ours",
        "transformers",
        "ours compiled",
        "transformers compiled",
    ]
    for name in case["ratios"]:
        ours, peer = name.split(" / ")
        speeds = case["sides"][ours]["images_per_s"] / case["sides"][peer]["images_per_s"]
        assert case["ratios"][name]["median"] == pytest.approx(speeds, rel=0.05)
    assert (
        "ours compiled / transformers compiled" in case["ratios"]
        and "vit_base" in capsys.readouterr().out
    )
    assert sorted(RESULTS.iterdir()) == before, "a rehearsal leaves no results"


def test_the_arithmetic_counted_follows_the_mask() -> None:
    less, more = (
        speed.needed_flops(case, Setting(small=True)) for case in ("fcmae_0.75", "fcmae_0.4")
    )
    assert 0 < less < more


def test_a_check_of_numbers_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    assert numerics.double_precision("convnextv2", "cpu", "fp32").passed
    real = numerics.backward

    def wrong(model: Any, *rest: Any, **options: Any) -> Any:
        loss, grads = real(model, *rest, **options)
        return (
            (loss * 1.1, grads)
            if next(model.parameters()).dtype == torch.float32
            else (loss, grads)
        )

    monkeypatch.setattr(numerics, "backward", wrong)
    assert numerics.double_precision("convnextv2", "cpu", "fp32").passed is False

    def broken() -> Check:
        raise RuntimeError("out of memory")

    failed = attempt("memory", broken)
    assert failed.passed is False and "out of memory" in failed.line()
