"""Hiera-MAE against the `hiera-transformer` package: same weights, same masks, same numbers."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from mae_runners.models import load_pretrained
from mae_runners.models.conversion import to_our_names
from mae_runners.models.masking import random_masking

from tests.support.models import (
    assert_alike,
    build,
    disturb,
    gradients,
    inputs,
    mae_config,
    relative,
)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from hiera.hiera import hiera_tiny_224
    from hiera.hiera_mae import mae_hiera_tiny_224

SIZE = (64, 96)


def reference(size: tuple[int, int] = SIZE, stride: int = 4) -> Any:
    torch.manual_seed(1)
    kernel = 7 if stride == 4 else 3
    model = mae_hiera_tiny_224(
        input_size=size,
        patch_stride=(stride, stride),
        patch_kernel=(kernel, kernel),
        patch_padding=(kernel // 2, kernel // 2),
        decoder_embed_dim=64,
        decoder_depth=2,
        decoder_num_heads=4,
    ).eval()
    disturb(model.parameters(), 0.02)
    return model


@pytest.mark.parametrize(
    ("dtype", "tolerance", "size", "stride"),
    [
        (torch.float64, 1e-8, SIZE, 4),
        (torch.float32, 1e-4, SIZE, 4),
        (torch.float64, 1e-8, (32, 48), 2),
        (torch.float64, 1e-8, (24, 16), 1),
    ],
)
def test_loss_and_gradients_equal_hiera_transformer(
    tmp_path: Path, dtype: torch.dtype, tolerance: float, size: tuple[int, int], stride: int
) -> None:
    peer = reference(size, stride)
    torch.save({"model_state": peer.state_dict()}, tmp_path / "peer.pth")
    ours = build({**mae_config("hiera_tiny_224", size), "patch_size": stride})
    report = load_pretrained(ours, tmp_path / "peer.pth")
    assert report.missing == [] and report.unexpected == [] and report.share == 1.0
    peer, ours = peer.to(dtype), ours.to(dtype)
    images, noise = inputs(ours, dtype=dtype)
    hidden = random_masking(noise, 0.6).hidden_map

    loss, pred, _, _ = peer(images, mask=~hidden)
    loss.backward()
    out = ours(images, noise)
    out.loss.backward()

    assert torch.equal(out.mask, hidden)
    assert abs(out.loss.item() - loss.item()) <= tolerance * loss.item()
    assert (
        relative(out.pred.flatten(0, 1).norm(dim=1).sort().values, pred.norm(dim=1).sort().values)
        < tolerance
    )
    expected = to_our_names(gradients(peer))
    found = {name.removeprefix("encoder."): grad for name, grad in gradients(ours).items()}
    assert_alike(found, expected, tolerance)


def test_unmasked_features_equal_the_peer_with_every_unit_shown() -> None:
    peer = reference().double()
    ours = build(mae_config("hiera_tiny_224", SIZE), dtype=torch.float64)
    state = {
        (k if k.startswith(("encoder_norm", "multi", "decoder", "mask")) else f"encoder.{k}"): v
        for k, v in peer.state_dict().items()
    }
    ours.load_state_dict(state)
    images, noise = inputs(ours, dtype=torch.float64)
    with torch.no_grad():
        latent, _ = peer.forward_encoder(images, 0.6, mask=torch.ones_like(noise, dtype=torch.bool))
        assert relative(ours.encode(images), latent.flatten(1, 3).mean(dim=1)) < 1e-10


def test_a_finetuned_hiera_file_gives_the_peers_logits(tmp_path: Path) -> None:
    from tests.support.models import classifier_config

    torch.manual_seed(2)
    peer = hiera_tiny_224(
        input_size=SIZE, num_classes=5
    ).train()  # in training mode its head returns logits
    disturb(peer.parameters(), 0.02)
    torch.save({"model_state": peer.state_dict()}, tmp_path / "finetuned.pth")
    ours = build(classifier_config("hiera_tiny_224", SIZE))
    report = load_pretrained(ours, tmp_path / "finetuned.pth")
    assert report.missing == [] and report.unexpected == []
    images = torch.randn(2, 3, *SIZE)
    with torch.no_grad():
        assert relative(ours(images), peer(images)) < 1e-5
