"""Real TensorRT-RTX engines of every family, precision and stage, for every target the library names, with no GPU."""

import pytest
from mae_runners.actions import export, gen_trt_engine

from tests.support.deploy import make_context, make_model, make_spec, save_checkpoint, write_digits


@pytest.mark.parametrize("arch", ["vit_base_patch16", "convnextv2_tiny", "hiera_small_224"])
@pytest.mark.parametrize("stage", ["finetune", "pretrain"])
def test_every_family_builds_at_its_usual_size_in_every_precision(arch, stage, tmp_path):
    digits = write_digits(tmp_path / "digits", per_class=4, size=64)
    checkpoint = save_checkpoint(make_model(arch, stage, 224), tmp_path / "model.pth")
    data = {"dataset__val_data_sources": str(digits)}
    onnx_file = export.run(make_spec(export__checkpoint=str(checkpoint), **data), make_context("export", tmp_path))["artefacts"][0]
    for data_type in ("FP32", "FP16", "BF16", "INT8"):
        values = {
            "gen_trt_engine__onnx_file": onnx_file,
            "gen_trt_engine__backend": "tensorrt_rtx",
            "gen_trt_engine__targets": ["8.0", "8.6", "8.9", "12.0"],
            "gen_trt_engine__trt_engine": str(tmp_path / f"{data_type}.engine"),
            "gen_trt_engine__tensorrt__data_type": data_type,
            "gen_trt_engine__tensorrt__max_batch_size": 8,
            **data,
        }
        result = gen_trt_engine.run(make_spec(**values), make_context("gen_trt_engine", tmp_path))
        assert result["engine"]["targets"] == ["8.0", "8.6", "8.9", "12.0"]
        assert result["engine"]["engine_bytes"] > 1_000_000
