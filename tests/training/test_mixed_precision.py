"""bfloat16 autocast and compilation, above all of the backward passes written by hand: gradients
stay those of float32."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from mae_runners.models.masking import random_masking
from mae_runners.training.fabric import MixedInputs

from tests.support.models import SMALL, build, classifier_config, gradients, inputs, mae_config
from tests.support.training import digits_folder, spec, train


def passes(model: Any, stage: str, mixed: bool) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients of one training pass, as Fabric runs it."""
    precision = MixedInputs("bf16-mixed", "cpu")
    torch.manual_seed(0)
    model.train()
    model.zero_grad(set_to_none=True)
    size = (64, 64)
    generator = torch.Generator().manual_seed(5)
    images = torch.randn(3, 3, *size, generator=generator)
    with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
        if stage == "pretrain":
            images, noise = precision.convert_input(
                (images, torch.rand(3, model.num_units, generator=generator))
            )
            loss = model(images, noise).loss
        else:
            loss = torch.nn.functional.cross_entropy(model(images).float(), torch.tensor([0, 3, 4]))
    loss.backward()
    return loss.item(), {name: grad.clone() for name, grad in gradients(model).items()}


def made(arch: str, stage: str) -> Any:
    config = (
        mae_config(arch, (64, 64), norm_pix_loss=False)
        if stage == "pretrain"
        else classifier_config(arch, (64, 64))
    )
    return build(config)


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
@pytest.mark.parametrize("arch", SMALL)
def test_gradients_in_bfloat16_are_those_of_float32(arch: str, stage: str) -> None:
    model = made(arch, stage)
    loss, exact = passes(model, stage, mixed=False)
    rounded, found = passes(model, stage, mixed=True)
    assert rounded == pytest.approx(loss, rel=0.01)
    assert found.keys() == exact.keys()
    assert all(grad.dtype == torch.float32 for grad in found.values())
    whole = torch.cat([grad.flatten() for grad in exact.values()])
    difference = torch.cat([(found[name] - grad).flatten() for name, grad in exact.items()])
    assert float(difference.norm() / whole.norm()) < 0.06
    for name, grad in exact.items():
        if grad.norm() > 1e-3 * whole.norm():
            assert (
                torch.nn.functional.cosine_similarity(grad.flatten(), found[name].flatten(), dim=0)
                > 0.98
            ), name


def test_masking_noise_and_pixels_keep_their_digits_in_mixed_precision() -> None:
    """Rounded to bfloat16 the noise of 400 units would tie, and other units would be hidden than in
    float32."""
    noise = torch.rand(64, 400, generator=torch.Generator().manual_seed(0))
    assert not torch.equal(
        random_masking(noise, 0.75).hidden_map, random_masking(noise.bfloat16(), 0.75).hidden_map
    )
    kept, images = MixedInputs("bf16-mixed", "cpu").convert_input((noise, torch.rand(1, 3, 4, 4)))
    assert torch.equal(kept, noise) and images.dtype == torch.float32


def test_a_captured_graph_has_the_gradients_of_the_eager_model() -> None:
    """`torch.compile` without code generation, of the family with most backward passes of its own:
    the graphs, and the derivative of each, are the compiler's. Generated code runs in the long
    suite."""
    model = made("convnextv2_atto", "pretrain")
    images, noise = inputs(model)
    model.train()
    model(images, noise).loss.backward()
    exact = {name: grad.clone() for name, grad in gradients(model).items()}
    model.zero_grad(set_to_none=True)
    torch.compiler.reset()
    loss = torch.compile(model, backend="aot_eager")(images, noise).loss
    loss.backward()
    torch.compiler.reset()
    for name, grad in gradients(model).items():
        assert torch.allclose(
            grad, exact[name], rtol=1e-3, atol=1e-5 * float(exact[name].abs().max()) + 1e-7
        ), name


def test_half_precision_on_a_cpu_is_said_in_the_result(tmp_path: Path) -> None:
    made = spec(digits_folder(tmp_path / "d"), tmp_path / "run", train__precision="fp16")
    assert train(made) == 0
    result = json.loads((tmp_path / "run/train/result.json").read_text())
    said = "train.precision=fp16: fp16 is not for CPUs: bf16 is used"
    assert said in result["warnings"]
