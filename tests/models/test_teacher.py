"""A teacher: a ViT learns the features of a trained one beside the pixels (DMAE)."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from mae_runners.models import build_classifier, checkpoint
from mae_runners.models.teacher import FrozenTeacher, load_teacher
from mae_runners.models.vit_mae import VitMae
from mae_skill.errors import MaeError
from mae_skill.rules import check_rules
from mae_skill.rules.base import Facts
from mae_skill.spec import ExperimentSpec

from tests.support.training import digits_folder, read, spec, train, values
from tests.training.test_resume import assert_same_run, changes_of, run_killed

SMALL = {"model__patch_size": 8, "model__decoder_embed_dim": 24, "model__depth": 4}
TEACHER = {"model__embed_dim": 48, "model__num_heads": 3, "model__depth": 4}
FIELD = "train.teacher.checkpoint"


def made(**changes: Any) -> ExperimentSpec:
    return ExperimentSpec.model_validate(spec(Path("data"), Path("job"), **{**SMALL, **changes}))


def teacher_file(path: Path, **changes: Any) -> Path:
    """A ViT of another width, as a checkpoint of ours."""
    one = made(**{**TEACHER, "train__stage": "finetune", "model__num_classes": 3, **changes})
    torch.manual_seed(5)
    size = one.dataset.augmentation.input_size
    model = build_classifier(one.model, size, one.dataset.channels or 3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    meta = checkpoint.CheckpointMeta.for_model(model, mean=[0.5] * 3, std=[0.25] * 3)
    checkpoint.save({"state_dict": checkpoint.model_state(model), "mae": meta.to_dict()}, path)
    return path


def student(file: Path, **changes: Any) -> tuple[VitMae, FrozenTeacher]:
    from mae_runners.models import build_mae

    one = made(train__teacher__checkpoint=str(file), **changes)
    colors = [0.4, 0.5, 0.6], [0.2, 0.3, 0.25]
    teacher = load_teacher(str(file), None, one.model_dump(mode="json"), colors)
    torch.manual_seed(0)
    learned = {"width": 48, "digest": teacher.digest, "layer": teacher.found.student_layer}
    learned["weight"] = one.train.teacher.weight
    model = build_mae(one.model, one.train, 64, teacher=learned)
    assert isinstance(model, VitMae)
    model.set_teacher(teacher)
    return model, teacher


def inputs(model: VitMae, count: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    drawn = torch.Generator().manual_seed(1)
    images = torch.randn(count, 3, *model.input_size, generator=drawn)
    return images, torch.rand(count, model.num_units, generator=drawn)


def walk(weights: dict[str, torch.Tensor], x: torch.Tensor, blocks: int, heads: int) -> Any:
    """Blocks of a ViT on tokens ``[N, D]`` of one picture, written out."""
    for number in range(blocks):
        part = {
            key.removeprefix(f"blocks.{number}."): value
            for key, value in weights.items()
            if key.startswith(f"blocks.{number}.")
        }

        def norm(y: torch.Tensor, name: str, part: dict[str, torch.Tensor] = part) -> torch.Tensor:
            spread = (y.var(-1, unbiased=False, keepdim=True) + 1e-6).sqrt()
            scaled = (y - y.mean(-1, keepdim=True)) / spread
            return scaled * part[f"{name}.weight"] + part[f"{name}.bias"]

        def layer(y: torch.Tensor, name: str, part: dict[str, torch.Tensor] = part) -> torch.Tensor:
            return y @ part[f"{name}.weight"].T + part[f"{name}.bias"]

        q, k, v = layer(norm(x, "norm1"), "attn.qkv").chunk(3, dim=-1)
        each = q.shape[-1] // heads
        seen = []
        for head in range(heads):
            at = slice(head * each, (head + 1) * each)
            share = (q[:, at] @ k[:, at].T / each**0.5).softmax(-1)
            seen.append(share @ v[:, at])
        x = x + layer(torch.cat(seen, -1), "attn.proj")
        x = x + layer(torch.nn.functional.gelu(layer(norm(x, "norm2"), "mlp.fc1")), "mlp.fc2")
    return x


def tokens(weights: dict[str, torch.Tensor], image: torch.Tensor, places: list[int]) -> Any:
    """The class token and the patches at ``places``, embedded."""
    side, found = image.shape[-1] // 8, [weights["cls_token"][0, 0] + weights["pos_embed"][0, 0]]
    for place in places:
        top, left = place // side * 8, place % side * 8
        patch = image[:, top : top + 8, left : left + 8]
        embedded = (weights["patch_embed.proj.weight"] * patch).flatten(1).sum(1)
        embedded = embedded + weights["patch_embed.proj.bias"]
        found.append(embedded + weights["pos_embed"][0, 1 + place])
    return torch.stack(found)


@pytest.mark.parametrize("sees", ["visible", "all"])
@pytest.mark.parametrize("layer", [None, 2])
def test_the_loss_is_that_of_the_paper_written_out(
    tmp_path: Path, sees: str, layer: int | None
) -> None:
    file = teacher_file(tmp_path / "teacher.pth")
    fields = {"train__teacher__sees": sees, "train__teacher__layer": layer}
    model, _ = student(file, train__teacher__weight=0.7, **fields)
    images, noise = inputs(model)
    block = layer or 3  # three quarters of four, in both

    state = checkpoint.read(file)["state_dict"]
    weights = {key.removeprefix("model.encoder."): value.double() for key, value in state.items()}
    own = {
        key.removeprefix("encoder."): value.double() for key, value in model.state_dict().items()
    }
    mean, std = torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.2, 0.3, 0.25])
    pixels = images.double() * std.double().view(-1, 1, 1) + mean.double().view(-1, 1, 1)
    shown = (pixels - 0.5) / 0.25  # as the teacher was trained
    errors = []
    for image, theirs, visible in zip(
        images.double(), shown, model.random_masking(noise).visible.tolist(), strict=True
    ):
        places = visible if sees == "visible" else list(range(model.num_units))
        target = walk(weights, tokens(weights, theirs, places), block, heads=3)[1:]
        target = target if sees == "visible" else target[visible]
        spread = (target.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
        target = (target - target.mean(-1, keepdim=True)) / spread
        learned = walk(own, tokens(own, image, visible), block, heads=2)[1:]
        learned = learned @ own["teacher_projector.weight"].T + own["teacher_projector.bias"]
        errors.append((learned - target).abs().mean())
    expected = 0.7 * float(torch.stack(errors).mean())

    pixels_alone = model.eval()(images, noise).loss.item()
    both = model.train()(images, noise).loss.item()
    assert both - pixels_alone == pytest.approx(expected, rel=1e-4)
    assert expected > 0.1


def test_gradients_reach_the_student_and_its_projector_and_never_the_teacher(
    tmp_path: Path,
) -> None:
    model, teacher = student(teacher_file(tmp_path / "teacher.pth"))
    before = {key: value.clone() for key, value in teacher.encoder.state_dict().items()}
    model.train()(*inputs(model)).loss.backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    assert not teacher.encoder.training
    assert all(p.grad is None and not p.requires_grad for p in teacher.encoder.parameters())
    after = teacher.encoder.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    names = [name for name, _ in model.named_parameters() if "teacher" in name]
    assert names == ["teacher_projector.weight", "teacher_projector.bias"]


def test_the_rest_starts_as_it_does_without_a_teacher(tmp_path: Path) -> None:
    from mae_runners.models import build_mae

    model, _ = student(teacher_file(tmp_path / "teacher.pth"))
    torch.manual_seed(0)
    one = made()
    plain = build_mae(one.model, one.train, 64).state_dict()
    found = model.state_dict()
    assert set(found) - set(plain) == {"teacher_projector.weight", "teacher_projector.bias"}
    assert all(torch.equal(found[key], value) for key, value in plain.items())


# ---- what does not fit ---------------------------------------------------------------------------


def planned(file: Path, **changes: Any) -> tuple[list[MaeError], list[str]]:
    one = made(train__teacher__checkpoint=str(file), **changes).model_dump(mode="json")
    errors, warnings = check_rules("train", one, facts=Facts(local_files=True))
    return errors, [str(warning) for warning in warnings if warning.field == FIELD]


def test_the_plan_says_what_is_learned_from_whom(tmp_path: Path) -> None:
    errors, notes = planned(teacher_file(tmp_path / "teacher.pth"))
    assert errors == []
    assert "ViT of width 48, block 3 of 4 to block 3 of 4" in notes[0]
    small = teacher_file(tmp_path / "small.pth", dataset__augmentation__input_size=32)
    errors, notes = planned(small)
    assert errors == [] and "encoder.pos_embed 4×4 → 8×8" in notes[0]
    assert student(small)[1].encoder.pos_embed.shape == (1, 65, 48)


@pytest.mark.parametrize(
    "teacher, ours, field, words",
    [
        ({"model__patch_size": 16}, {}, FIELD, "another patch"),
        ({"dataset__channels": 1}, {}, FIELD, "another number of channels"),
        ({}, {"train__teacher__layer": 5}, "train.teacher.layer", "no such block"),
        (
            {},
            {"model__arch": "convnextv2_atto", "model__patch_size": None},
            FIELD,
            "only a ViT learns",
        ),
    ],
)
def test_a_teacher_that_does_not_fit_is_refused_by_plan_and_run_alike(
    tmp_path: Path, teacher: dict[str, Any], ours: dict[str, Any], field: str, words: str
) -> None:
    file = teacher_file(tmp_path / "teacher.pth", **teacher)
    if "model__arch" in ours:
        shape = dict.fromkeys(("model__embed_dim", "model__depth", "model__num_heads"))
        ours = {**ours, **shape, "model__decoder_num_heads": None}
    errors, _ = planned(file, **ours)
    assert [error.field for error in errors] == [field]
    assert (words in errors[0].message and errors[0].hint) or field == "train.teacher.layer"

    data = digits_folder(tmp_path / "digits")
    made_spec = spec(data, tmp_path / "job", **{**SMALL, **ours, "train__num_epochs": 1})
    made_spec["train"]["teacher"] = {
        "checkpoint": str(file),
        "layer": ours.get("train__teacher__layer"),
    }
    assert train(made_spec) != 0
    error = read(tmp_path / "job", "error.json")
    assert error["field"] == field and words in error["message"]


def test_a_file_that_is_no_vit_and_a_file_that_is_missing_are_named(tmp_path: Path) -> None:
    torch.save({"weights": torch.zeros(3)}, tmp_path / "other.pth")
    errors, _ = planned(tmp_path / "other.pth")
    assert [error.field for error in errors] == [FIELD]
    assert "other.pth is no teacher" in errors[0].message


def test_a_published_layout_is_taken_with_the_heads_of_its_width(tmp_path: Path) -> None:
    shape = {"model__embed_dim": None, "model__depth": 2, "model__num_heads": None}
    one = made(**shape, train__stage="finetune", model__num_classes=3)
    source = build_classifier(one.model, 64)
    bare = {name.removeprefix("encoder."): value for name, value in source.state_dict().items()}
    torch.save({"model": bare}, tmp_path / "timm.pth")
    errors, notes = planned(tmp_path / "timm.pth")
    assert errors == [] and "width 192, block 2 of 2 to block 4 of 4" in notes[0]
    bare["patch_embed.proj.weight"] = torch.zeros(40, 3, 8, 8)
    torch.save({"model": bare}, tmp_path / "odd.pth")
    errors, _ = planned(tmp_path / "odd.pth")
    assert "does not say how many attention heads" in errors[0].message


# ---- runs ----------------------------------------------------------------------------------------


def test_a_run_with_a_teacher_continues_bit_for_bit_from_a_moved_file_and_no_other(
    tmp_path: Path,
) -> None:
    file = teacher_file(tmp_path / "teacher.pth")
    data = digits_folder(tmp_path / "digits", per_class=5)
    changes = {**changes_of("pretrain", data), **SMALL, "train__num_epochs": 2}
    changes |= {"train__teacher__checkpoint": str(file)}
    assert train(spec(data, tmp_path / "whole", **changes)) == 0
    parts = spec(data, tmp_path / "parts", **changes)
    run_killed(parts, 6)

    other = teacher_file(tmp_path / "other.pth", model__embed_dim=24)
    parts["train"]["teacher"]["checkpoint"] = str(other)
    assert train(parts) != 0
    error = read(tmp_path / "parts", "error.json")
    assert error["field"] == FIELD and "another teacher" in error["message"]

    moved = shutil.move(file, tmp_path / "moved.pth")
    parts["train"]["teacher"]["checkpoint"] = str(moved)
    assert train(parts) == 0
    assert_same_run(tmp_path / "whole", tmp_path / "parts")

    saved = checkpoint.read(next((tmp_path / "whole/train").glob("model_epoch_001.pth")))
    wide = [key for key, value in saved["state_dict"].items() if 48 in value.shape]
    assert wide == ["model.teacher_projector.weight", "model.teacher_projector.bias"]
    assert saved["mae"]["model"]["teacher"]["digest"] == checkpoint.digest(Path(moved))
    model, _ = checkpoint.load_model(tmp_path / "whole/train/model_epoch_001.pth")
    assert isinstance(model, VitMae)


def test_validation_judges_pixels_alone(tmp_path: Path) -> None:
    data = digits_folder(tmp_path / "digits")
    run = {**SMALL, "train__num_epochs": 1, "dataset__val_data_sources": str(data)}
    run["train__optim__lr"] = 1e-7
    assert train(spec(data, tmp_path / "plain", **run)) == 0
    run["train__teacher__checkpoint"] = str(teacher_file(tmp_path / "teacher.pth"))
    assert train(spec(data, tmp_path / "taught", **run)) == 0
    plain, taught = tmp_path / "plain", tmp_path / "taught"
    assert values(taught, "val_loss") == pytest.approx(values(plain, "val_loss"), rel=1e-5)
    assert values(taught, "train_loss")[0] > values(plain, "train_loss")[0] + 0.1


def test_a_folder_of_a_model_that_had_a_teacher_comes_back_with_its_decoder(tmp_path: Path) -> None:
    from mae_runners.deploy import transformers_format
    from mae_runners.models.pretrained import load_described

    model, _ = student(teacher_file(tmp_path / "teacher.pth"))
    meta = checkpoint.CheckpointMeta.for_model(model)
    transformers_format.write(model, meta, tmp_path / "folder", None)
    back, _, decodes = load_described(tmp_path / "folder", None, None, None)
    assert decodes and isinstance(back, VitMae)
    kept = model.state_dict()
    for name, value in back.state_dict().items():
        assert name.startswith("teacher_projector.") or torch.equal(value, kept[name]), name
