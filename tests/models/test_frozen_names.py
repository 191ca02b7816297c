"""The names that a plan accepts in ``train.freeze`` are those of the model's weights."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from mae_runners.models.build import build_classifier, build_mae, build_segmenter
from mae_skill.archs import ARCHS
from mae_skill.bundle import Bundle
from mae_skill.errors import SpecError
from mae_skill.rules.base import Case, Facts
from mae_skill.rules.model import _names, frozen
from mae_skill.spec import ExperimentSpec

DEFAULT = Bundle.load().schema("train")["default"]
HEADS = ("neck.", "uper.", "auxiliary.")


def spec_of(arch: str, kind: str, **model: Any) -> dict[str, Any]:
    spec: dict[str, Any] = copy.deepcopy(DEFAULT)
    spec["model"].update(arch=arch, num_classes=3, decoder_depth=2, **model)
    spec["train"]["stage"] = "pretrain" if kind == "mae" else "finetune"
    spec["model"]["task"] = "segmentation" if kind == "segmenter" else "classification"
    return spec


def model_of(spec: dict[str, Any], kind: str) -> Any:
    parsed = ExperimentSpec.model_validate(spec)
    with torch.device("meta"):
        if kind == "mae":
            return build_mae(parsed.model, parsed.train, 224)
        build = build_segmenter if kind == "segmenter" else build_classifier
        return build(parsed.model, 224)


@pytest.mark.parametrize("kind", ["mae", "classifier", "segmenter"])
@pytest.mark.parametrize(
    ("arch", "model"),
    [
        ("vit_tiny_patch16", {"depth": 3}),
        ("vit_tiny_patch16", {"global_pool": False}),
        ("convnextv2_atto", {}),
        ("hiera_tiny_224", {}),
    ],
)
def test_the_known_names_are_the_models(arch: str, model: dict[str, Any], kind: str) -> None:
    spec = spec_of(arch, kind, **model)
    built = model_of(spec, kind)
    weights = [name for name, _ in built.named_parameters()]
    modules = [name for name, _ in built.named_modules() if name]
    real = set(weights) | {
        name for name in modules if any(weight.startswith(f"{name}.") for weight in weights)
    }
    known = set(_names(Case("train", spec, {}, Facts()), ARCHS[arch]))
    assert {name for name in real if not name.startswith(HEADS)} == known


NAMES = ["encoder", "head", "blocks", "blocks.1", "blocks.99", "stages.0", "stem", "norm", "neck"]
NAMES += ["decoder", "patch_embed", "mask_token", "encoder.blocks.0.attn.qkv", "fc_norm", "nope"]


@pytest.mark.parametrize("kind", ["mae", "classifier", "segmenter"])
@pytest.mark.parametrize("arch", ["vit_tiny_patch16", "convnextv2_atto", "hiera_tiny_224"])
def test_plan_and_model_judge_a_name_alike(arch: str, kind: str) -> None:
    spec = spec_of(arch, kind)
    model = model_of(spec, kind)

    def accepts(names: list[str]) -> bool:
        """A name that freezes nothing is set in vain: the plan refuses it."""
        try:
            return all(model.freeze([name]) for name in names) and bool(model.freeze(names))
        except SpecError:
            return False
        finally:
            model.requires_grad_(True)

    for names in [[name] for name in NAMES] + [["encoder", "head"], ["encoder", "norm"]]:
        spec["train"]["freeze"] = names
        case = Case("train", spec, {}, Facts())
        frozen(case)
        assert accepts(names) == (case.errors == []), names
