"""Muon updates the matrices inside a network and AdamW the rest, each as torch's own does alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from mae_runners.models import build_classifier, build_mae
from mae_runners.models.heads import Classifier
from mae_runners.models.mae import MaskedAutoencoder
from mae_runners.training.muon import MuonWithAdamW
from mae_runners.training.optim import Traits, build_optimizer, parameter_groups
from mae_skill.estimate import estimate
from mae_skill.rules import check_rules
from mae_skill.spec import ExperimentSpec
from mae_skill.weights.parameters import matrices_of

from tests.support.training import FAMILIES, curve, digits_folder, spec, train
from tests.training.test_resume import assert_same_run, changes_of, run_killed

MUON = {"train__optim__type": "Muon"}


def made(stage: str, arch: str = "vit_tiny_patch16", **changes: Any) -> ExperimentSpec:
    return ExperimentSpec.model_validate(
        spec(Path("data"), Path("job"), stage, arch, **{**MUON, **changes})
    )


def model_of(one: ExperimentSpec) -> MaskedAutoencoder | Classifier:
    size = one.dataset.augmentation.input_size
    if one.train.stage == "pretrain":
        return build_mae(one.model, one.train, size)
    return build_classifier(one.model, size)


def built(one: ExperimentSpec, model: Any, *, layerwise: bool = False) -> torch.optim.Optimizer:
    groups = parameter_groups(
        Traits.of(model),
        one.train.optim,
        layerwise=layerwise,
        named=list(model.named_parameters()),
    )
    device = torch.device("cpu")
    return build_optimizer(groups, one.train.optim, stage=one.train.stage, lr=1e-2, device=device)


def test_every_step_is_that_of_torchs_muon_and_adamw_on_the_same_gradients() -> None:
    one = made("finetune", train__optim__layer_decay=0.5, train__optim__backbone_multiplier=0.5)
    torch.manual_seed(0)
    model, twin = model_of(one), model_of(one)
    twin.load_state_dict(model.state_dict())
    optimizer = built(one, model, layerwise=True)
    assert isinstance(optimizer, MuonWithAdamW)

    # The rules, written out: two blocks, so three layers; the head alone has the whole rate.
    inside = ("attn.qkv.weight", "attn.proj.weight", "mlp.fc1.weight", "mlp.fc2.weight")
    matrices, rest = [], []
    for name, parameter in twin.named_parameters():
        layer = 0
        if name.startswith("encoder.blocks."):
            layer = int(name.split(".")[2]) + 1
        elif "norm" in name or "head" in name:
            layer = 3
        scale = 0.5 ** (3 - layer) * (1.0 if "head" in name else 0.5)
        vector = name.endswith((".bias", "cls_token", "pos_embed")) or "norm" in name
        group = {
            "params": [parameter],
            "lr": 1e-2 * scale,
            "weight_decay": 0.0 if vector else 0.05,
        }
        (matrices if name.endswith(inside) else rest).append(group)
    assert len(matrices) == 8
    alone = [
        torch.optim.Muon(matrices, momentum=0.95, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, betas=(0.9, 0.999)),
    ]

    for _ in range(3):
        for mine, theirs in zip(model.parameters(), twin.parameters(), strict=True):
            mine.grad = torch.randn_like(mine)
            theirs.grad = mine.grad.clone()
        optimizer.step()
        for other in alone:
            other.step()
    for (name, mine), theirs in zip(model.named_parameters(), twin.parameters(), strict=True):
        assert torch.equal(mine, theirs), name


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
@pytest.mark.parametrize("arch", FAMILIES)
def test_plan_and_run_agree_on_the_matrices(arch: str, stage: str) -> None:
    one = made(stage, arch)
    model = model_of(one)
    chosen = Traits.of(model).matrices
    assert chosen == matrices_of(one.model_dump(mode="json")).keys()
    assert any(name.startswith("encoder.") for name in chosen)
    assert not any("head" in name or "pred" in name or "embed.proj" in name for name in chosen)

    optimizer = built(one, model)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter) if parameter.requires_grad else None
    optimizer.step()
    kept = sum(
        value.numel()
        for state in optimizer.state.values()
        for name, value in state.items()
        if name != "step"
    )
    planned = estimate("train", one.model_dump(mode="json"))["memory_mb"]["optimizer"]
    assert planned == pytest.approx(4 * kept / 2**20, abs=0.06)


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_a_run_with_muon_continues_bit_for_bit(tmp_path: Path, stage: str) -> None:
    data = digits_folder(tmp_path / "digits", per_class=5)
    changes = {**changes_of(stage, data), **MUON, "train__num_epochs": 2}
    assert train(spec(data, tmp_path / "whole", stage, **changes)) == 0
    parts = spec(data, tmp_path / "parts", stage, **changes)
    run_killed(parts, 3)
    assert train(parts) == 0
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_a_run_may_change_its_optimizer_at_a_checkpoint_that_is_named(tmp_path: Path) -> None:
    data = digits_folder(tmp_path / "digits", per_class=2)
    name = "train__resume_training_checkpoint_path"
    for number, (before, after) in enumerate((("AdamW", "Muon"), ("Muon", "AdamW"))):
        first, second = tmp_path / f"first{number}", tmp_path / f"second{number}"
        changes = {"train__num_epochs": 1, "train__optim__type": before}
        assert train(spec(data, first, **changes)) == 0
        changes = {"train__optim__type": after, name: str(first / "train/model_epoch_000.pth")}
        assert train(spec(data, second, **changes)) == 0
        assert curve(second)


def test_a_frozen_encoder_leaves_a_head_to_adamw_alone() -> None:
    one = made("finetune")
    model = model_of(one)
    model.freeze(["encoder"])
    optimizer = built(one, model)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter) if parameter.requires_grad else None
    before = model.encoder.head.weight.detach().clone()
    optimizer.step()
    assert not torch.equal(before, model.encoder.head.weight)
    assert {name for group in optimizer.param_groups for name in group} > {"betas", "scale"}


def test_muon_under_fsdp_is_an_error_of_the_plan() -> None:
    one = made("pretrain", train__distributed_strategy="fsdp").model_dump(mode="json")
    errors, _ = check_rules("train", one)
    assert [(error.field, error.got) for error in errors] == [("train.optim.type", "Muon")]
    assert "ddp" in str(errors[0].expected)
    one["train"]["distributed_strategy"] = "ddp"
    assert check_rules("train", one)[0] == []
