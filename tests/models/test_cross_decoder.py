"""CrossMAE's decoder: hidden patches attend to the visible ones alone, and only some are
predicted."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from mae_runners.models import build_mae, load_pretrained
from mae_runners.models.mae import MaskedAutoencoder
from mae_runners.models.masking import random_masking
from mae_skill.errors import SpecError
from mae_skill.estimate import estimate
from mae_skill.rules import check_rules
from mae_skill.spec import ExperimentSpec
from mae_skill.weights.hand_on import why_not
from mae_skill.weights.parameters import target_of
from pydantic import ValidationError

from tests.support.training import digits_folder, spec, train
from tests.training.test_resume import assert_same_run, changes_of, run_killed

CROSS = {"model__decoder_type": "cross", "model__decoder_depth": 2}


def made(arch: str = "vit_tiny_patch16", **changes: Any) -> ExperimentSpec:
    flat = {**CROSS, "model__patch_size": 8, "model__decoder_embed_dim": 24, **changes}
    if not arch.startswith("vit"):
        flat |= {"model__patch_size": None}
    return ExperimentSpec.model_validate(spec(Path("data"), Path("job"), arch=arch, **flat))


def built(**changes: Any) -> MaskedAutoencoder:
    one = made(**changes)
    torch.manual_seed(0)
    return build_mae(one.model, one.train, one.dataset.augmentation.input_size)


def inputs(model: MaskedAutoencoder, count: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    drawn = torch.Generator().manual_seed(1)
    images = torch.rand(count, 3, *model.input_size, generator=drawn)
    return images, torch.rand(count, model.num_units, generator=drawn)


def normed(x: torch.Tensor, weights: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    centered = x - x.mean(-1, keepdim=True)
    scaled = centered / (centered.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def layer(x: torch.Tensor, weights: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def plain_loss(model: MaskedAutoencoder, images: torch.Tensor, noise: torch.Tensor) -> float:
    """The paper's decoder and loss for one image and one patch at a time, in double precision."""
    weights = {name: value.double() for name, value in model.state_dict().items()}
    mask = random_masking(noise, model.mask_ratio)
    with torch.no_grad():
        latents = model.forward_encoder(images, mask).double()
    heads, patch = 2, model.target_patch
    columns = images.shape[3] // patch
    errors = []
    for image, latent, hidden in zip(images.double(), latents, mask.hidden.tolist(), strict=True):
        for place in hidden:
            x = weights["mask_token"][0, 0] + weights["decoder_pos_embed"][0, 1 + place]
            for number in range(2):
                name = f"decoder_blocks.{number}"
                q = layer(normed(x, weights, f"{name}.norm1"), weights, f"{name}.attn.q")
                k, v = layer(latent, weights, f"{name}.attn.kv").chunk(2, dim=1)
                width = len(q) // heads
                seen = []
                for head in range(heads):
                    part = slice(head * width, (head + 1) * width)
                    share = (k[:, part] @ q[part] / math.sqrt(width)).softmax(0)
                    seen.append(share @ v[:, part])
                x = x + layer(torch.cat(seen), weights, f"{name}.attn.proj")
                wide = layer(normed(x, weights, f"{name}.norm2"), weights, f"{name}.mlp.fc1")
                x = x + layer(torch.nn.functional.gelu(wide), weights, f"{name}.mlp.fc2")
            answer = layer(normed(x, weights, "decoder_norm"), weights, "decoder_pred")

            top, left = place // columns * patch, place % columns * patch
            target = image[:, top : top + patch, left : left + patch].permute(1, 2, 0).flatten()
            target = (target - target.mean()) / (target.var() + 1e-6).sqrt()
            errors.append((answer - target).square().mean())
    return float(torch.stack(errors).mean())


def test_the_loss_is_that_of_the_paper_written_out() -> None:
    model = built()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    images, noise = inputs(model)
    expected = plain_loss(model, images, noise)
    for training in (True, False):
        loss = model.train(training)(images, noise).loss.item()
        assert loss == pytest.approx(expected, rel=1e-5)


def test_a_share_of_the_hidden_patches_is_predicted_in_training_and_all_in_evaluation() -> None:
    model = built(model__decoder_prediction_share=0.25)
    whole = built()
    images, noise = inputs(model)
    mask = random_masking(noise, model.mask_ratio, 0.25)
    assert mask.hidden.shape[1] == 32 and mask.predicted.shape[1] == 8
    assert all(
        set(some) < set(every)
        for some, every in zip(mask.predicted.tolist(), mask.hidden.tolist(), strict=True)
    )

    few, every = model.train()(images, noise), whole(images, noise)
    assert few.pred.shape[1] == 8 and torch.equal(few.mask, every.mask)
    # No query sees another: a patch has the same prediction, whoever is predicted beside it.
    places = [
        row.index(one) for row, one in zip(mask.hidden.tolist(), mask.predicted[:, 3], strict=True)
    ]
    for image, place in enumerate(places):
        torch.testing.assert_close(few.pred[image, 3], every.pred[image, place])
    target = model.patchify(images, mask.predicted)
    target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6).sqrt()
    expected = (few.pred - target).square().mean().item()
    assert few.loss.item() == pytest.approx(expected, rel=1e-5)
    assert model.eval()(images, noise).loss.item() == pytest.approx(every.loss.item(), rel=1e-6)


def test_the_patches_of_a_step_are_drawn_evenly() -> None:
    noise = torch.rand(4000, 16, generator=torch.Generator().manual_seed(3))
    predicted = random_masking(noise, 0.5, 0.5).predicted
    counts = torch.bincount(predicted.flatten(), minlength=16)
    assert counts.sum() == 4000 * 4 and counts.float().std() / counts.float().mean() < 0.06


@pytest.mark.parametrize("training", [True, False])
def test_pictures_show_every_patch(training: bool) -> None:
    model = built(model__decoder_prediction_share=0.1).train(training)
    images, noise = inputs(model)
    with torch.no_grad():
        losses, picture = model.patch_losses(images, noise), model.reconstruct(images, noise)
    hidden = model.random_masking(noise).hidden_map.view(len(images), 8, 8)
    hidden = hidden.repeat_interleave(8, 1).repeat_interleave(8, 2)
    assert torch.equal(losses.isfinite(), hidden)
    changed = (picture != images).any(dim=1)
    assert changed[hidden].float().mean() > 0.99 and not changed[~hidden].any()


def test_plan_and_model_agree_on_names_shapes_and_counts() -> None:
    one = made(model__decoder_prediction_share=0.5)
    model = build_mae(one.model, one.train, 64)
    plain = one.model_dump(mode="json")
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    assert dict(target_of(plain).shapes) == shapes
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert estimate("train", plain)["parameters"]["total"] == trained
    for name, module in model.named_modules():
        # The whole encoder is refused without weights: it would stay as it was drawn.
        if name not in ("", "encoder") and list(module.parameters(recurse=False)):
            plain["train"]["freeze"] = [name]
            assert check_rules("train", plain)[0] == [], name
    plain["train"]["freeze"] = ["decoder_embed"]
    assert [error.field for error in check_rules("train", plain)[0]] == ["train.freeze"]


def test_the_plan_counts_less_work_and_less_memory() -> None:
    def planned(**changes: Any) -> dict[str, Any]:
        changes |= {"model__decoder_depth": 8, "model__decoder_embed_dim": 512}
        return estimate("train", made(**changes).model_dump(mode="json"))

    papers = planned(model__decoder_type="self")
    cross, light = planned(), planned(model__decoder_prediction_share=1 / 3)
    work = [one["forward_gflops"] for one in (papers, cross, light)]
    memory = [one["memory_mb"]["activations"] for one in (papers, cross, light)]
    assert work == sorted(work, reverse=True) and memory == sorted(memory, reverse=True)
    assert work[2] < 0.5 * work[0]


@pytest.mark.parametrize("arch", ["convnextv2_atto", "hiera_tiny_224"])
def test_the_other_families_have_no_such_decoder(arch: str) -> None:
    one = made(arch, model__decoder_num_heads=None)
    errors, _ = check_rules("train", one.model_dump(mode="json"))
    assert [error.field for error in errors] == ["model.decoder_type"]
    assert arch in errors[0].message
    with pytest.raises(SpecError, match="only a ViT"):
        build_mae(one.model, one.train, 64)


@pytest.mark.parametrize("share", [0.0, -0.5, 1.5, "half", None])
def test_a_share_that_is_none_is_refused(share: Any) -> None:
    with pytest.raises(ValidationError, match="decoder_prediction_share"):
        made(model__decoder_prediction_share=share)


@pytest.mark.parametrize("ours, theirs", [("self", "cross"), ("cross", "self")])
def test_weights_of_another_decoder_give_their_encoder(
    tmp_path: Path, ours: str, theirs: str
) -> None:
    source = built(model__decoder_type=theirs)
    torch.save({"model": source.state_dict()}, tmp_path / "weights.pth")
    model = built(model__decoder_type=ours, train__seed=7)
    before = model.state_dict()["decoder_pred.weight"].clone()
    load_pretrained(model, tmp_path / "weights.pth")
    found = model.state_dict()
    assert torch.equal(found["encoder.norm.weight"], source.state_dict()["encoder.norm.weight"])
    name = "encoder.blocks.1.mlp.fc1.weight"
    assert torch.equal(found[name], source.state_dict()[name])
    assert torch.equal(found["decoder_pred.weight"], before)


def test_transformers_has_no_such_decoder() -> None:
    refusal = why_not("transformers", built().config)
    assert refusal is not None and refusal.field == "model.decoder_type"
    assert why_not("timm", built().config) is None


def test_a_run_continues_bit_for_bit(tmp_path: Path) -> None:
    data = digits_folder(tmp_path / "digits", per_class=5)
    changes = {**changes_of("pretrain", data), **CROSS, "train__num_epochs": 2}
    changes |= {"model__decoder_prediction_share": 0.5, "model__patch_size": 8}
    assert train(spec(data, tmp_path / "whole", **changes)) == 0
    assert list((tmp_path / "whole/train/pictures").glob("reconstruction_epoch_*.png"))
    parts = spec(data, tmp_path / "parts", **changes)
    run_killed(parts, 3)
    assert train(parts) == 0
    assert_same_run(tmp_path / "whole", tmp_path / "parts")
