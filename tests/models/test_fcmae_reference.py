"""FCMAE's sparse path against the plainest possible network: dense convolutions, everything masked
after every step."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from mae_runners.models.fcmae import Block, stage_layout
from mae_runners.models.masking import random_masking
from torch import Tensor

from tests.support.models import assert_alike, build, gradients, inputs, mae_config, relative


def dense_block(block: Any, x: Tensor, shown: Tensor) -> Tensor:
    """``x [B, C, H, W]``, ``shown [B, 1, H, W]`` of 0 and 1."""
    mlp = block.mlp
    y = block.conv_dw(x) * shown
    y = F.layer_norm(y.permute(0, 2, 3, 1), (x.shape[1],), block.norm.weight, block.norm.bias, 1e-6)
    y = F.gelu(F.linear(y, mlp.fc1.weight, mlp.fc1.bias))
    seen = y * shown.permute(0, 2, 3, 1)
    response = seen.square().sum(dim=(1, 2), keepdim=True).sqrt()
    y = (
        mlp.grn.weight * (y * response / (response.mean(dim=-1, keepdim=True) + 1e-6))
        + mlp.grn.bias
        + y
    )
    y = F.linear(y, mlp.fc2.weight, mlp.fc2.bias).permute(0, 3, 1, 2)
    return (x + y) * shown


def masked_dense(model: Any, images: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Loss and latent map ``[B, C, h, w]`` of the same weights."""
    rows, columns = model.units
    hidden = random_masking(noise, model.mask_ratio).hidden_map
    unit_map = (~hidden).to(images.dtype).view(-1, 1, rows, columns)

    def shown(side: int) -> Tensor:
        return unit_map.repeat_interleave(side, 2).repeat_interleave(side, 3)

    def channel_norm(norm: Any, x: Tensor) -> Tensor:
        return F.layer_norm(
            x.permute(0, 2, 3, 1), (x.shape[1],), norm.weight, norm.bias, 1e-6
        ).permute(0, 3, 1, 2)

    encoder = model.encoder
    x = channel_norm(encoder.stem[1], encoder.stem[0](images)) * shown(8)
    for number, stage in enumerate(encoder.stages):
        if number:
            x = stage.downsample[1](channel_norm(stage.downsample[0], x)) * shown(8 >> number)
        for block in stage.blocks:
            x = dense_block(block, x, shown(8 >> number))
    latent = x
    x = F.conv2d(x, model.proj.weight[:, :, None, None], model.proj.bias)
    x = x * unit_map + model.mask_token.view(1, -1, 1, 1) * (1 - unit_map)
    for block in model.decoder:
        x = dense_block(block, x, torch.ones_like(unit_map))
    pred = (
        F.conv2d(x, model.pred.weight[:, :, None, None], model.pred.bias).flatten(2).transpose(1, 2)
    )
    target = (
        F.unfold(images, model.unit, stride=model.unit)
        .transpose(1, 2)
        .unflatten(2, (3, model.unit, model.unit))
        .permute(0, 1, 3, 4, 2)
        .flatten(2)
    )
    if model.norm_pix_loss:
        target = (target - target.mean(-1, keepdim=True)) / (
            target.var(-1, keepdim=True) + 1e-6
        ).sqrt()
    loss = (pred - target).square().mean(-1)
    return (loss * hidden).sum() / hidden.sum(), latent


@pytest.mark.parametrize(
    ("size", "mask_ratio", "norm_pix", "patch"),
    [
        ((96, 128), 0.6, True, None),
        ((64, 64), 0.75, False, None),
        ((128, 160), 0.75, True, None),
        ((48, 32), 0.6, True, 2),
        ((24, 32), 0.6, False, 1),
    ],
)
def test_sparse_equals_masked_dense_in_loss_and_gradients(
    size: tuple[int, int], mask_ratio: float, norm_pix: bool, patch: int | None
) -> None:
    config = mae_config("convnextv2_atto", size, mask_ratio=mask_ratio, norm_pix_loss=norm_pix)
    model = build({**config, "patch_size": patch}, dtype=torch.float64)
    images, noise = inputs(model, dtype=torch.float64)
    loss, _ = masked_dense(model, images, noise)
    loss.backward()
    expected = gradients(model)
    model.zero_grad()
    out = model(images, noise)
    out.loss.backward()
    assert abs(out.loss.item() - loss.item()) < 1e-12 * max(1.0, loss.item())
    found = gradients(model)
    assert found.keys() == dict(model.named_parameters()).keys()
    assert_alike(found, expected, 1e-9)


def test_masked_positions_are_zero_before_every_depthwise_convolution() -> None:
    model = build(mae_config("convnextv2_atto", (96, 96)))
    images, noise = inputs(model)
    hidden = random_masking(noise, 0.6).hidden_map.view(-1, 1, 3, 3)
    seen: list[int] = []

    def check(module: Any, args: tuple[Tensor]) -> None:
        side = args[0].shape[2] // 3
        cover = hidden.repeat_interleave(side, 2).repeat_interleave(side, 3)
        assert args[0].masked_select(cover).abs().max() == 0
        assert args[0].masked_select(~cover).abs().min() > 0
        seen.append(side)

    for block in model.encoder.blocks_in_order():
        block.conv_dw.register_forward_pre_hook(check)
    model(images, noise)
    assert seen == [8, 8, 4, 4, 2, 2, 2, 2, 2, 2, 1, 1]


def test_what_is_hidden_cannot_reach_the_encoder() -> None:
    for arch in ("convnextv2_atto", "hiera_tiny_224", "vit_tiny_patch16"):
        model = build(mae_config(arch, (96, 96)))
        images, noise = inputs(model)
        mask = random_masking(noise, 0.6)
        cover = mask.hidden_map.view(-1, 1, 96 // model.unit, 96 // model.unit)
        cover = cover.repeat_interleave(model.unit, 2).repeat_interleave(model.unit, 3)
        with torch.no_grad():
            first = model.forward_decoder(model.forward_encoder(images, mask), mask)
            changed = images.masked_fill(cover, 9.0)
            second = model.forward_decoder(model.forward_encoder(changed, mask), mask)
        assert torch.equal(first, second), arch


def test_grn_of_one_sample_does_not_see_the_others() -> None:
    model = build(mae_config("convnextv2_atto", (64, 64)), dtype=torch.float64)
    images, noise = inputs(model, 3, dtype=torch.float64)
    with torch.no_grad():
        together = model(images, noise).pred[:1]
        alone = model(images[:1], noise[:1]).pred
    assert relative(together, alone) < 1e-12


def test_a_compiled_block_gives_the_same_values_and_gradients() -> None:
    torch.manual_seed(0)
    block = Block(16).double()
    layout = stage_layout(
        torch.rand(2, 25).argsort(1)[:, :6].sort(1).values, (5, 5), 8
    )  # a map above SMALL_MAP: unit by unit when eager
    x = torch.randn(layout.cells.numel(), 16, dtype=torch.float64, requires_grad=True)
    results = []
    for call in (block, torch.compile(block, backend="eager", fullgraph=True)):
        block.zero_grad()
        x.grad = None
        y = call(x, layout)
        y.square().sum().backward()
        assert x.grad is not None
        results.append([y, x.grad.clone(), *(grad.clone() for grad in gradients(block).values())])
    for eager, compiled in zip(*results, strict=True):
        assert relative(eager, compiled) < 1e-12
