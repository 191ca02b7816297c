"""All 19 architectures: sizes, parameter names, gradients, and timm's logits. Slow: the large ones
take gigabytes."""

from __future__ import annotations

import gc

import pytest
import timm
import torch
from mae_runners.models import build_from_config
from mae_skill.archs import ARCHS

from tests.support.models import classifier_config, inputs, mae_config, relative

HUGE = {"convnextv2_huge", "vit_huge_patch14", "hiera_huge_224"}


def timm_name(arch: str) -> str:
    return f"{arch}_224" if arch.startswith("vit") else arch


@pytest.mark.parametrize("arch", ARCHS)
def test_parameters_are_timms_by_name_and_count(arch: str) -> None:
    with torch.device("meta"):
        peer = timm.create_model(
            timm_name(arch),
            pretrained=False,
            num_classes=7,
            **({"global_pool": "avg"} if arch.startswith("vit") else {}),
        )
    with torch.device("meta"):
        ours = build_from_config(classifier_config(arch, (224, 224), num_classes=7))
    assert {name.removeprefix("encoder."): p.numel() for name, p in ours.named_parameters()} == {
        name: p.numel() for name, p in peer.named_parameters()
    }


@pytest.mark.parametrize("arch", ARCHS)
def test_pretraining_and_finetuning_step_at_a_size_that_is_not_square(arch: str) -> None:
    multiple = ARCHS[arch].size_multiple
    size = (2 * multiple, 3 * multiple)
    for config in (mae_config(arch, size), classifier_config(arch, size, drop_path_rate=0.1)):
        torch.manual_seed(0)
        model = build_from_config(config)
        if "mask_ratio" in config:
            images, noise = inputs(model)
            loss = model(images, noise).loss
        else:
            loss = model(torch.randn(2, 3, *size)).square().mean()
        loss.backward()
        assert torch.isfinite(loss)
        assert all(
            p.grad is not None and torch.isfinite(p.grad).all()
            for p in model.parameters()
            if p.requires_grad
        )
        del model, loss
        gc.collect()


@pytest.mark.parametrize("arch", [name for name in ARCHS if name not in HUGE])
@pytest.mark.parametrize("units", [(3, 3), (2, 5)])
def test_logits_equal_timms_at_other_sizes(arch: str, units: tuple[int, int]) -> None:
    multiple = ARCHS[arch].size_multiple
    size = (units[0] * multiple, units[1] * multiple)
    options = {} if arch.startswith("convnextv2") else {"img_size": size}
    if arch.startswith("vit"):
        options["global_pool"] = "avg"
    torch.manual_seed(0)
    peer = timm.create_model(timm_name(arch), pretrained=False, num_classes=7, **options).eval()
    ours = build_from_config(classifier_config(arch, size, num_classes=7)).eval()
    state = {f"encoder.{name}": value for name, value in peer.state_dict().items()}
    expected = ours.state_dict()
    ours.load_state_dict(
        {name: value.reshape(expected[name].shape) for name, value in state.items()}
    )
    images = torch.randn(1, 3, *size)
    with torch.no_grad():
        assert relative(ours(images), peer(images)) < 1e-4
