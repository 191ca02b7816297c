"""Every model of timm that could be taken for one of ours: loaded exactly, or refused by name."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import timm
import torch
from mae_runners.models import build_from_config
from mae_runners.models.pretrained import fill
from mae_skill.archs import ARCHS
from mae_skill.errors import CheckpointError
from mae_skill.weights.fit import Target, fit
from mae_skill.weights.names import Array, flatten, guess_arch, translate

from tests.skill.test_weights import STAGES, model_of, spec_of, target_of, target_of_model
from tests.support.models import disturb, mae_config, relative

MODULES = ("vision_transformer", "vision_transformer_hybrid", "vision_transformer_relpos", "eva")
MODULES += ("beit", "deit", "convnext", "hiera", "hieradet_sam2", "cait", "xcit", "naflexvit")
#: widest models that are built with values
MOST = 100e6


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("arch", ARCHS)
def test_the_plan_knows_every_parameter_of_every_architecture(arch: str, stage: str) -> None:
    spec = spec_of(arch, stage)
    found, built = target_of(spec.model_dump(mode="json")), target_of_model(model_of(spec))
    assert dict(found.shapes) == dict(built.shapes) and found.row == built.row


def names() -> list[str]:
    return sorted({name for module in MODULES for name in timm.list_models(module=module)})


def nearest(state: dict[str, Array]) -> str | None:
    """The architecture of these widths and depths; of the same widths where none has the depths."""
    found = translate(state)
    if found is None:
        return None
    shapes = {name: recipe.shape for name, recipe in found.entries.items()}
    if arch := guess_arch(shapes):
        return arch
    embed = shapes.get("patch_embed.proj.weight") or shapes.get("stem.0.weight") or (0,)
    return next((name for name, row in ARCHS.items() if row.dims[0] == embed[0]), None)


def target(arch: str, size: tuple[int, int]) -> Target:
    with torch.device("meta"):
        return target_of_model(build_from_config(mae_config(arch, size)))


@pytest.mark.parametrize("name", names())
def test_a_model_of_timm_is_loaded_exactly_or_refused(name: str) -> None:
    with torch.device("meta"):
        peer: Any = timm.create_model(name, pretrained=False, num_classes=0)
    state = flatten(peer.state_dict())
    size = tuple(peer.pretrained_cfg.get("input_size", (3, 224, 224))[1:])
    arch = nearest(state)
    if arch is None:
        return  # no width of ours, or a layout without a backbone known here
    side = ARCHS[arch].size_multiple
    size = (max(side, size[0] // side * side),) * 2
    found = fit(peer.state_dict(), target(arch, size), name, "train.pretrained_model_path")
    if found.refusal is not None:
        assert isinstance(found.refusal, CheckpointError) and found.refusal.got
        return
    if sum(value.numel() for value in peer.parameters()) > MOST:
        return
    options = {"img_size": size} if not arch.startswith("convnext") else {}
    if arch.startswith("hiera"):
        options["q_pool"] = 2
    peer = timm.create_model(name, pretrained=False, num_classes=0, **options).eval()
    disturb(peer.parameters(), 0.05)
    ours = build_from_config(mae_config(arch, size)).eval()
    fill(ours, peer.state_dict(), name)
    images = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        if arch.startswith("hiera"):
            theirs = peer.forward_intermediates(images, intermediates_only=True)[-1]
            mine = ours.encoder.pyramid(images)[-1]
        elif arch.startswith("vit") and not hasattr(peer.norm, "weight"):
            theirs = peer.forward_intermediates(images, indices=1, intermediates_only=True)[-1]
            mine = ours.encoder.forward_intermediates(images, indices=1, intermediates_only=True)[
                -1
            ]
        else:
            theirs, mine = peer.forward_features(images), ours.encoder.forward_features(images)
        assert relative(mine, theirs) < 1e-3, f"{name} as {arch}"
    gc.collect()
