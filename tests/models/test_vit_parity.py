"""ViT-MAE against `transformers`: same weights, same masks, same numbers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from mae_runners.models import build_from_config, load_pretrained
from mae_runners.models.conversion import to_our_names
from transformers import ViTMAEConfig, ViTMAEForPreTraining

from tests.support.models import (
    assert_alike,
    build,
    disturb,
    gradients,
    inputs,
    mae_config,
    relative,
)

SIZE = (64, 64)


def reference(norm_pix: bool, mask_ratio: float, patch: int = 16) -> ViTMAEForPreTraining:
    """The peer, in the shape of vit_tiny with the small decoder; its epsilon set to the paper's
    1e-6 (its own default is 1e-12)."""
    torch.manual_seed(1)
    config = ViTMAEConfig(
        hidden_size=192, num_hidden_layers=12, num_attention_heads=3, intermediate_size=768,
        image_size=4 * patch, patch_size=patch, layer_norm_eps=1e-6,
        decoder_hidden_size=64, decoder_num_hidden_layers=2, decoder_num_attention_heads=4,
        decoder_intermediate_size=256,
        norm_pix_loss=norm_pix, mask_ratio=mask_ratio,
    )  # fmt: skip
    model = ViTMAEForPreTraining(config).eval()
    disturb(p for p in model.parameters() if p.requires_grad)
    return model


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-8), (torch.float32, 1e-4)])
@pytest.mark.parametrize(
    ("norm_pix", "mask_ratio", "patch"), [(True, 0.75, 16), (False, 0.5, 16), (True, 0.75, 4)]
)
def test_loss_and_gradients_equal_transformers(
    tmp_path: Path,
    dtype: torch.dtype,
    tolerance: float,
    norm_pix: bool,
    mask_ratio: float,
    patch: int,
) -> None:
    peer = reference(norm_pix, mask_ratio, patch)
    torch.save(peer.state_dict(), tmp_path / "peer.pth")
    config = mae_config("vit_tiny_patch16", (4 * patch, 4 * patch))
    ours = build(
        {**config, "norm_pix_loss": norm_pix, "mask_ratio": mask_ratio, "patch_size": patch}
    )
    report = load_pretrained(ours, tmp_path / "peer.pth")
    assert report.missing == [] and report.unexpected == [] and report.share == 1.0
    peer, ours = peer.to(dtype), ours.to(dtype)
    images, noise = inputs(ours, dtype=dtype)

    theirs = peer(images, noise=noise)
    theirs.loss.backward()
    out = ours(images, noise)
    out.loss.backward()

    assert torch.equal(out.mask, theirs.mask.bool())
    assert relative(out.pred, theirs.logits[out.mask].view_as(out.pred)) < tolerance
    assert abs(out.loss.item() - theirs.loss.item()) <= tolerance * theirs.loss.item()
    expected = to_our_names(gradients(peer))
    found = {name.removeprefix("encoder."): grad for name, grad in gradients(ours).items()}
    assert_alike(found, expected, tolerance)


def test_the_fixed_position_table_is_the_papers_and_stays_fixed() -> None:
    torch.manual_seed(0)
    fresh = build_from_config(mae_config("vit_tiny_patch16", (48, 80)))
    table, width, columns = fresh.encoder.pos_embed, 192, 5
    for row, column, channel in ((0, 0, 0), (1, 4, 0), (2, 3, 7), (2, 1, 47)):
        frequency = 10000.0 ** (-channel / (width / 4))
        vector = table[0, 1 + row * columns + column].double()
        found = vector[
            [channel, channel + width // 4, channel + width // 2, channel + 3 * width // 4]
        ]
        angle = torch.tensor(
            [column * frequency, column * frequency, row * frequency, row * frequency],
            dtype=torch.float64,
        )
        expected = torch.stack([angle[0].sin(), angle[1].cos(), angle[2].sin(), angle[3].cos()])
        assert torch.allclose(found, expected, atol=1e-6)
    assert table[0, 0].abs().max() == 0
    assert not table.requires_grad and not fresh.decoder_pos_embed.requires_grad
