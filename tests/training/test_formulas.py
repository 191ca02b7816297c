"""The numbers behind the parameters are those of the published formulas, worked out here by hand,
not by the code under test."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mae_runners.data import Mixup
from mae_runners.models import build_classifier
from mae_runners.training.ema import WeightAverage
from mae_runners.training.optim import (
    Traits,
    build_optimizer,
    layerwise_active,
    parameter_groups,
    scaled_lr,
)
from mae_runners.training.schedule import build_schedule
from mae_skill.spec import ExperimentSpec
from timm.layers import DropPath
from torch import nn

from tests.support.training import spec


def made(stage: str = "finetune", arch: str = "vit_tiny_patch16", **changes: Any) -> ExperimentSpec:
    plain = (
        {"model__embed_dim": None, "model__depth": None, "model__num_heads": None}
        if arch.startswith("vit")
        else {}
    )
    return ExperimentSpec.model_validate(
        spec(Path("data"), Path("job"), stage, arch, **{**plain, **changes})
    )


RATES = {
    # warm-up of 2 epochs of 5 steps, run of 10 epochs: steps 0 … 49
    "cosine": {
        0: 0.04,
        4: 0.2,
        9: 0.4,
        10: 0.4,
        20: 0.1 + 0.3 * (1 + math.sqrt(0.5)) / 2,
        30: 0.25,
        50: 0.1,
    },
    "poly": {0: 0.04, 9: 0.4, 10: 0.4, 30: 0.25, 40: 0.175, 50: 0.1},
    "MultiStep": {0: 0.04, 9: 0.4, 10: 0.4, 19: 0.4, 20: 0.2, 39: 0.2, 40: 0.1, 49: 0.1},
}


@pytest.mark.parametrize("kind", RATES)
def test_rates_at_given_steps(kind: str) -> None:
    optim = made(
        train__optim__lr_scheduler=kind,
        train__optim__warmup_epochs=2,
        train__optim__min_lr=0.1,
        train__optim__milestones=[4, 8],
        train__optim__gamma=0.5,
    ).train.optim
    schedule = build_schedule(optim, lr=0.4, steps_per_epoch=5, num_epochs=10)
    assert {step: schedule(step) for step in RATES[kind]} == pytest.approx(RATES[kind])
    optimizer = torch.optim.AdamW(
        [{"params": [nn.Parameter(torch.zeros(1))], "scale": scale} for scale in (1.0, 0.25)],
        lr=1.0,
    )
    for step, rate in RATES[kind].items():
        assert schedule.apply(optimizer, step) == pytest.approx(rate)
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx(
            [rate, 0.25 * rate]
        )


def test_the_base_rate_grows_with_the_effective_batch() -> None:
    optim = made(train__optim__lr=1.5e-4, train__optim__lr_scaling="linear").train.optim
    assert scaled_lr(optim, 4096).value == pytest.approx(1.5e-4 * 4096 / 256)
    assert scaled_lr(made(train__optim__lr=1.5e-4).train.optim, 4096).value == 1.5e-4


@pytest.mark.parametrize("stage, beta2", [("pretrain", 0.95), ("finetune", 0.999)])
def test_adamws_betas_are_those_of_the_papers(stage: str, beta2: float) -> None:
    optim = made(stage, train__optim__momentum=0.8).train.optim
    group = {"params": [nn.Parameter(torch.zeros(2))], "scale": 0.5, "weight_decay": 0.05}
    optimizer = build_optimizer([group], optim, stage=stage, lr=1e-3, device=torch.device("cpu"))
    assert optimizer.defaults["betas"] == (0.8, beta2)
    assert (optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["weight_decay"]) == (
        5e-4,
        0.05,
    )


def exponents(arch: str, depths: tuple[int, ...], layers: int) -> dict[str, int]:
    """Beginning of a parameter's name → how often `layer_decay` is multiplied into its rate,
    written out from the papers' rules."""
    if arch.startswith("vit"):
        found = {f"encoder.{name}": layers for name in ("cls_token", "pos_embed", "patch_embed.")}
        return found | {f"encoder.blocks.{i}.": layers - (i + 1) for i in range(depths[0])}
    if arch.startswith("hiera"):
        found = {f"encoder.{name}": layers for name in ("pos_embed", "patch_embed.")}
        return found | {f"encoder.blocks.{i}.": layers - (i + 1) for i in range(sum(depths))}
    found, grouped = {}, depths[2] == 27
    found["encoder.stem."] = 13 if grouped else layers - 1
    block = 0
    for stage, depth in enumerate(depths):
        for i in range(depth):
            block += 1
            number = (1, 2, 3 + i // 3, 12)[stage] if grouped else block
            found[f"encoder.stages.{stage}.blocks.{i}."] = layers - number
            if i == 0:
                found[f"encoder.stages.{stage}.downsample."] = layers - number
    return found


ARCHS = {
    "vit_tiny_patch16": ((12,), 13),
    "convnextv2_atto": ((2, 2, 6, 2), 13),
    "convnextv2_base": ((3, 3, 27, 3), 13),
    "hiera_tiny_224": ((1, 2, 7, 2), 13),
}


@pytest.mark.parametrize("arch", ARCHS)
def test_layer_decay_and_the_backbone_multiplier_scale_the_rate_of_every_parameter(
    arch: str,
) -> None:
    depths, layers = ARCHS[arch]
    built = made(
        arch=arch,
        train__optim__layer_decay=0.5,
        train__optim__backbone_multiplier=0.1,
        train__optim__weight_decay=0.3,
    )
    with torch.device("meta"):
        model = build_classifier(built.model, (64, 64))
    named = list(model.named_parameters())
    groups = parameter_groups(Traits.of(model), built.train.optim, layerwise=True, named=named)
    scales = {name: group["scale"] for group in groups for name in group["param_names"]}
    decays = {name: group["weight_decay"] for group in groups for name in group["param_names"]}
    assert scales.keys() == {name for name, _ in named}
    rules = exponents(arch, depths, layers)
    for name, parameter in named:
        [power] = {value for start, value in rules.items() if name.startswith(start)} or {0}
        head = "head" in name and "norm" not in name
        expected = 0.5**power * (1.0 if head else 0.1)
        if (
            not any(name.startswith(start) for start in rules) and not head
        ):  # a last norm: of the head in some families
            assert scales[name] in (1.0, pytest.approx(0.1)), name
        else:
            assert scales[name] == pytest.approx(expected), name
        vector = len([size for size in parameter.shape if size != 1]) <= 1 or name.endswith(
            ("cls_token", "pos_embed")
        )
        assert decays[name] == (0.0 if vector else 0.3), name
    plain = parameter_groups(Traits.of(model), built.train.optim, layerwise=False, named=named)
    assert {group["scale"] for group in plain} == {1.0}
    assert [
        layerwise_active(*case)
        for case in (("finetune", True), ("finetune", False), ("pretrain", True))
    ] == [True, False, False]


@pytest.mark.parametrize("arch", ARCHS)
def test_drop_path_grows_linearly_with_the_depth(arch: str) -> None:
    """Block i of n drops a sample with probability rate · i / (n − 1) (arXiv 1603.09382); both
    branches of a transformer block alike."""
    depths, _ = ARCHS[arch]
    with torch.device("meta"):
        model = build_classifier(made(arch=arch, model__drop_path_rate=0.3).model, (64, 64))
    blocks = list(model.encoder.blocks_in_order())
    count = sum(depths)
    assert len(blocks) == count
    for i, block in enumerate(blocks):
        rates = {part.drop_prob for part in block.modules() if isinstance(part, DropPath)} or {0.0}
        assert len(rates) == 1 and rates.pop() == pytest.approx(0.3 * i / (count - 1)), i


@pytest.mark.parametrize("alpha", [0.2, 0.8, 1.0])
def test_mixups_share_has_a_beta_distribution(alpha: float) -> None:
    """Mean 1/2 and variance 1 / (4 (2α + 1)); pixels and targets are mixed with the same share."""
    mix = Mixup(
        made(
            dataset__augmentation__mixup=alpha, dataset__augmentation__cutmix=0.0
        ).dataset.augmentation,
        2,
        smoothing=0.0,
    )
    images = torch.stack([torch.zeros(3, 2, 2), torch.ones(3, 2, 2)])
    shares = []
    for step in range(4000):
        mixed, targets = mix(images, torch.tensor([0, 1]), (7, step, 0))
        share = float(targets[0, 0])
        if step < 50:
            assert mixed[0].allclose(torch.full((3, 2, 2), 1 - share)) and mixed[1].allclose(
                torch.full((3, 2, 2), share)
            )
            assert targets.sum(1).allclose(torch.ones(2))
        shares.append(share)
    assert np.mean(shares) == pytest.approx(0.5, abs=0.03)
    assert np.var(shares) == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.08)


def test_cutmix_gives_a_label_the_share_of_the_pixels_that_are_its() -> None:
    mix = Mixup(
        made(
            dataset__augmentation__mixup=0.0, dataset__augmentation__cutmix=1.0
        ).dataset.augmentation,
        2,
        smoothing=0.0,
    )
    images = torch.stack([torch.zeros(3, 32, 32), torch.ones(3, 32, 32)])
    shares = []
    for step in range(600):
        mixed, targets = mix(images, torch.tensor([0, 1]), (7, step, 0))
        assert float(mixed[0].mean()) == pytest.approx(float(targets[0, 1]), abs=1e-6)
        assert set(mixed.unique().tolist()) <= {0.0, 1.0}
        shares.append(float(targets[0, 0]))
    assert min(shares) < 0.2 and max(shares) > 0.95


def test_mixup_and_cutmix_are_drawn_as_often_as_asked() -> None:
    switches = {"dataset__augmentation__mixup": 0.8, "dataset__augmentation__cutmix": 1.0}
    switches |= {
        "dataset__augmentation__mixup_prob": 0.6,
        "dataset__augmentation__mixup_switch_prob": 0.25,
    }
    mix = Mixup(made(**switches).dataset.augmentation, 2, smoothing=0.0)
    images = torch.stack([torch.zeros(3, 16, 16), torch.ones(3, 16, 16)])
    kinds = {"none": 0, "cutmix": 0, "mixup": 0}
    for step in range(3000):
        values = set(mix(images, torch.tensor([0, 1]), (3, step, 0))[0][0].unique().tolist())
        kinds[
            "none"
            if values == {0.0}
            else "mixup"
            if len(values) == 1 and values != {1.0}
            else "cutmix"
        ] += 1
    shares = {name: count / 3000 for name, count in kinds.items()}  # some boxes of CutMix are empty
    assert shares["mixup"] == pytest.approx(0.6 * 0.75, abs=0.04)
    assert shares["cutmix"] == pytest.approx(0.6 * 0.25, abs=0.04)


def test_the_average_of_weights_is_the_geometric_sum() -> None:
    module = nn.Linear(1, 1, bias=False)
    seen = [module.weight.item()]
    average = WeightAverage(module, 0.75)
    for value in (1.0, -2.0, 5.0):
        with torch.no_grad():
            module.weight.fill_(value)
        average.update()
        seen.append(value)
    expected = 0.75**3 * seen[0] + 0.25 * (0.75**2 * 1.0 + 0.75 * -2.0 + 5.0)
    assert float(average.shadow[0]) == pytest.approx(expected)
    average.swap()
    assert module.weight.item() == pytest.approx(expected)
    average.swap()
    assert module.weight.item() == 5.0
