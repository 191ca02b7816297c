"""Real TensorRT-RTX engines of every family, precision and stage, for every target the library
names, with no GPU."""

import json

import pytest
import torch
from mae_runners.actions import export, gen_trt_engine
from mae_sdk import Skill
from mae_skill.errors import JobFailedError

from tests.support.deploy import make_context, make_model, make_spec, save_checkpoint, write_digits


@pytest.mark.parametrize("arch", ["vit_base_patch16", "convnextv2_tiny", "hiera_small_224"])
@pytest.mark.parametrize("stage", ["finetune", "pretrain"])
def test_every_family_builds_at_its_usual_size_in_every_precision(arch, stage, tmp_path):
    digits = write_digits(tmp_path / "digits", per_class=4, size=64)
    checkpoint = save_checkpoint(make_model(arch, stage, 224), tmp_path / "model.pth")
    data = {"dataset__val_data_sources": str(digits)}
    onnx_file = export.run(
        make_spec(export__checkpoint=str(checkpoint), **data), make_context("export", tmp_path)
    )["artefacts"][0]
    for data_type in ("fp32", "fp16", "bf16", "int8"):
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


@pytest.mark.parametrize("arch", ["vit_tiny_patch16", "convnextv2_atto", "hiera_tiny_224"])
def test_with_no_target_named_every_precision_builds_for_all_of_them(arch, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    data = {
        "dataset__val_data_sources": str(write_digits(tmp_path / "digits", per_class=4, size=64))
    }
    checkpoint = save_checkpoint(
        make_model(arch, "finetune", 96 if arch != "vit_tiny_patch16" else 64),
        tmp_path / "model.pth",
    )
    onnx_file = export.run(
        make_spec(export__checkpoint=str(checkpoint), **data), make_context("export", tmp_path)
    )["artefacts"][0]
    for data_type, targets in (
        ("fp32", []),
        ("fp16", []),
        ("bf16", []),
        ("int8", []),
        ("fp16", ["7.5"]),
    ):
        values = {
            "gen_trt_engine__onnx_file": onnx_file,
            "gen_trt_engine__backend": "tensorrt_rtx",
            "gen_trt_engine__targets": targets,
            "gen_trt_engine__trt_engine": str(tmp_path / f"{data_type}{len(targets)}.engine"),
            "gen_trt_engine__tensorrt__data_type": data_type,
            **data,
        }
        built = gen_trt_engine.run(make_spec(**values), make_context("gen_trt_engine", tmp_path))[
            "engine"
        ]["targets"]
        assert set(built) == {"7.5"} if targets else {"8.0", "8.6", "8.9", "12.0"} <= set(built)


def test_a_chain_of_jobs_ends_in_an_engine_with_nothing_named_but_the_parent(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    digits = write_digits(tmp_path / "digits", per_class=6, size=32)
    skill, root = Skill(), {"results_root": str(tmp_path / "results")}
    small = {
        "arch": "vit_tiny_patch16",
        "image_size": 32,
        "num_classes": 4,
        "stage": "finetune",
        "train.num_epochs": 1,
        "batch_size": 8,
    }
    small |= {
        "dataset.num_workers_per_gpu": 0,
        "train.accelerator": "cpu",
        "train.precision": "fp32",
    }
    sources = {"train_datasets": str(digits), "eval_dataset": str(digits)}
    train = skill.create_job("train", automl_policy="off", spec_overrides=small, **sources, **root)
    assert train.wait(900).state == "COMPLETE"
    exported = skill.create_job("export", parent_job_id=train.id, **root)
    assert exported.wait(900).state == "COMPLETE"
    wanted = {
        "gen_trt_engine.backend": "tensorrt_rtx",
        "gen_trt_engine.targets": ["8.6"],
        "gen_trt_engine.tensorrt.data_type": "fp16",
    }
    engine = skill.create_job(
        "gen_trt_engine", parent_job_id=exported.id, spec_overrides=wanted, **root
    )
    assert engine.wait(900).state == "COMPLETE"
    built = tmp_path / "results" / engine.id / "gen_trt_engine" / "model.engine"
    description = json.loads(built.with_name("model.engine.json").read_text())
    assert (description["arch"], description["precision"], description["num_classes"]) == (
        "vit_tiny_patch16",
        "fp16",
        4,
    )
    assert description["input_size"] == [32, 32]
    assert built.stat().st_size == description["engine_bytes"]
    # A build that fails spoils later ones of its process, in the library: here every build is a
    # job, as it is for users.
    old = {**wanted, "gen_trt_engine.targets": ["7.5"], "gen_trt_engine.tensorrt.data_type": "fp32"}
    failed = skill.create_job(
        "gen_trt_engine", parent_job_id=exported.id, spec_overrides=old, **root
    )
    with pytest.raises(JobFailedError) as caught:
        failed.wait(900)
    assert "for 7.5 set gen_trt_engine.tensorrt.data_type=fp16" in str(caught.value.hint)
    assert not list((tmp_path / "results" / failed.id).rglob("*.engine"))
