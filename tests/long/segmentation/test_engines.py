"""Real TensorRT-RTX engines of segmenters, in every precision, for named GPUs, on a machine without
one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from mae_runners.actions import export, gen_trt_engine

from tests.support.deploy import make_context, make_spec
from tests.support.segmentation import scenes, seg_spec
from tests.support.training import train


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("arch", ["vit_tiny_patch16", "convnextv2_atto", "hiera_tiny_224"])
def test_every_family_builds_in_every_precision_behind_the_gate(arch: str, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    data = scenes(tmp_path / "scenes", training=16, validation=32)
    changes = {
        "train__num_epochs": 12,
        "train__validation_interval": 12,
        "train__optim__lr": 2e-3,
        "train__optim__lr_scheduler": "poly",
    }
    assert (
        train(
            seg_spec(data, tmp_path / "job", arch, **changes, dataset__val_data_sources=str(data))
        )
        == 0
    )
    weights = str(tmp_path / "job" / "train" / f"{arch}_latest.pth")
    sources = {"dataset__val_data_sources": str(data), "dataset__train_data_sources": str(data)}
    onnx_file = export.run(
        make_spec(export__checkpoint=weights, **sources), make_context("export", tmp_path)
    )["artefacts"][0]
    for data_type in ("fp32", "fp16", "bf16", "int8"):
        values = {
            "gen_trt_engine__onnx_file": onnx_file,
            "gen_trt_engine__backend": "tensorrt_rtx",
            "gen_trt_engine__targets": ["8.6", "8.9"],
            "gen_trt_engine__trt_engine": str(tmp_path / f"{data_type}.engine"),
            "gen_trt_engine__tensorrt__data_type": data_type,
            "gen_trt_engine__tensorrt__max_batch_size": 4,
            **sources,
        }
        result = gen_trt_engine.run(make_spec(**values), make_context("gen_trt_engine", tmp_path))
        assert (
            result["engine"]["targets"] == ["8.6", "8.9"]
            and result["engine"]["engine_bytes"] > 50_000
        )
        described = json.loads((tmp_path / f"{data_type}.engine.json").read_text())
        assert (described["task"], described["num_classes"]) == ("segmentation", 11)
