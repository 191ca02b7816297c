"""A plan looks at the weights that it is given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from mae_sdk import Plan, Skill
from mae_skill.errors import MaeError

from tests.support.images import make_tarball, write_imagefolder

SMALL = {"arch": "vit_tiny_patch16", "image_size": 64}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    pictures = write_imagefolder(tmp_path / "pictures", classes=3, per_class=4)
    make_tarball(pictures, tmp_path / "data" / "images_train.tar.gz")
    return tmp_path / "data"


def plan(data: Path, **options: Any) -> Plan:
    overrides = {**SMALL, **options.pop("spec_overrides", {})}
    return Skill().plan(
        "train",
        train_datasets=str(data),
        spec_overrides=overrides,
        automl_policy="off",
        **options,
    )


def save(path: Path, **options: Any) -> Path:
    shape = {"img_size": 64, "embed_dim": 192, "depth": 12, "num_heads": 3, "num_classes": 3}
    model = timm.models.vision_transformer.VisionTransformer(**{**shape, **options})
    torch.save({"model": model.state_dict()}, path)
    return path


def test_a_plan_says_in_one_line_what_it_takes(data: Path, tmp_path: Path) -> None:
    made = plan(data, ptm=str(save(tmp_path / "same.pth", img_size=96)))
    (line,) = [line for line in made.notices if "of the backbone" in line]
    assert line.startswith("train.pretrained_model_path: 100.0% of the backbone (148 entries")
    assert "adapted: encoder.pos_embed 6×6 → 4×4" in line
    assert "left out: head.weight, head.bias" in line
    assert "fresh: 27 entries" not in line and "decoder_pred" in line
    assert not [item for item in made.warnings if "backbone" in str(item)]


def test_a_plan_refuses_another_model_and_names_it(data: Path, tmp_path: Path) -> None:
    with pytest.raises(MaeError) as caught:
        plan(data, ptm=str(save(tmp_path / "other.pth", init_values=1e-5)))
    assert "LayerScale" in str(caught.value) and "no place for blocks.0.ls1.gamma" in str(
        caught.value
    )


def test_a_plan_warns_of_a_head_without_names(data: Path, tmp_path: Path) -> None:
    made = plan(
        data,
        ptm=str(save(tmp_path / "file.pth", global_pool="avg")),
        spec_overrides={"train.stage": "finetune", "model.num_classes": 3},
    )
    assert [item for item in made.warnings if "the file does not name them" in str(item)]


def test_a_file_that_cannot_be_read_without_torch_is_left_to_the_run(
    data: Path, tmp_path: Path
) -> None:
    (tmp_path / "file.pth").write_bytes(b"sealed or broken")
    made = plan(data, ptm=str(tmp_path / "file.pth"))
    assert not [line for line in made.notices if "of the backbone" in line]
