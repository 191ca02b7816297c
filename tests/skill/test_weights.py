"""What a plan knows of a file of weights, from its names and shapes alone."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from mae_runners.models import build_classifier, build_mae, build_segmenter
from mae_runners.models.pretrained import target_of as target_of_model
from mae_skill.archs import ARCHS
from mae_skill.spec import ExperimentSpec
from mae_skill.weights import header
from mae_skill.weights.parameters import target_of
from safetensors.torch import save_file

STAGES = ("pretrain", "finetune", "segmentation")
SOME = ("vit_tiny_patch16", "convnextv2_atto", "hiera_base_plus_224")


def spec_of(arch: str, stage: str, **model: Any) -> ExperimentSpec:
    values: dict[str, Any] = {
        "model": {"arch": arch, "num_classes": 7, **model},
        "train": {"stage": "pretrain" if stage == "pretrain" else "finetune"},
    }
    if stage == "segmentation":
        values["model"]["task"] = "segmentation"
    multiple = ARCHS[arch].size_multiple
    values["dataset"] = {"augmentation": {"input_size": [2 * multiple, 3 * multiple]}}
    return ExperimentSpec.model_validate(values)


def model_of(spec: ExperimentSpec) -> Any:
    size = spec.dataset.augmentation.input_size
    with torch.device("meta"):
        if spec.train.stage == "pretrain":
            return build_mae(spec.model, spec.train, size)
        if spec.model.task == "segmentation":
            return build_segmenter(spec.model, size)
        return build_classifier(spec.model, size)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("arch", SOME)  # tests/long/parity has the others
def test_the_plan_knows_every_parameter_that_the_runner_builds(arch: str, stage: str) -> None:
    spec = spec_of(arch, stage)
    found, built = target_of(spec.model_dump(mode="json")), target_of_model(model_of(spec))
    assert dict(found.shapes) == dict(built.shapes)
    assert found.heads == built.heads and found.row == built.row and found.kind == built.kind


@pytest.mark.parametrize("arch", SOME)
def test_another_patch_is_known_too(arch: str) -> None:
    spec = spec_of(arch, "pretrain", patch_size=2)
    found, built = target_of(spec.model_dump(mode="json")), target_of_model(model_of(spec))
    assert dict(found.shapes) == dict(built.shapes) and found.row == built.row
    assert found.any_patch and built.any_patch


def test_shape_overrides_and_token_pooling_are_known_too() -> None:
    shape = {"embed_dim": 96, "depth": 5, "num_heads": 4, "mlp_ratio": 3.0, "global_pool": False}
    spec = spec_of("vit_tiny_patch16", "finetune", **shape)
    found, built = target_of(spec.model_dump(mode="json")), target_of_model(model_of(spec))
    assert dict(found.shapes) == dict(built.shapes) and found.heads == built.heads == (4,)
    assert found.token_pool and built.token_pool


class Harm:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch harmed",)


def test_a_header_is_read_without_torch_and_without_running_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    half = torch.zeros(2, 3, dtype=torch.float16)
    torch.save(
        {"model": {"a": half, "b": torch.nn.Parameter(torch.zeros(4))}, "x": Harm(), "epoch": 3},
        "file.pth",
    )
    found = header.look(Path("file.pth"))
    assert found is not None and found["epoch"] == 3
    assert found["model"] == {
        "a": header.Stub((2, 3), "float16"),
        "b": header.Stub((4,), "float32"),
    }
    assert not Path("harmed").exists()
    save_file({"a": half}, "named.pth")
    assert header.look(Path("named.pth")) == {"a": header.Stub((2, 3), "float16")}
    Path("broken.pth").write_bytes(b"PK\x03\x04 nothing")
    assert header.look(Path("broken.pth")) is None
