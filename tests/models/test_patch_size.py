"""``model.patch_size``: other input tokens through training, segmentation, export and chains."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from mae_runners.actions import export
from mae_runners.models import build_segmenter, load_pretrained
from mae_runners.models.checkpoint import load_model
from mae_skill.archs import ARCHS, arch_of, with_patch
from mae_skill.errors import SpecError
from mae_skill.origin import Origin, OriginKind

from tests.support.deploy import make_context, make_model, make_spec, save_checkpoint, write_digits
from tests.support.training import digits_folder, spec, train

SMALL = [
    ("vit_tiny_patch16", 4, 28),
    ("convnextv2_atto", 2, 32),
    ("convnextv2_atto", 1, 24),
    ("hiera_tiny_224", 2, 32),
    ("hiera_tiny_224", 1, 16),
]


@pytest.mark.parametrize(
    ("name", "patch", "unit", "target"),
    [
        ("vit_base_patch16", None, 16, 16),
        ("vit_base_patch16", 4, 4, 4),
        ("vit_huge_patch14", 7, 7, 7),
        ("convnextv2_base", None, 32, 32),
        ("convnextv2_base", 2, 16, 16),
        ("hiera_base_224", None, 32, 16),
        ("hiera_base_224", 1, 8, 4),
    ],
)
def test_a_mask_unit_and_a_target_keep_their_size_in_tokens(
    name: str, patch: int | None, unit: int, target: int
) -> None:
    arch = with_patch(ARCHS[name], patch)
    assert (arch.unit, arch.target_patch, arch.size_multiple) == (unit, target, unit)
    assert arch_of({"model": {"arch": name, "patch_size": patch}}) == arch


@pytest.mark.parametrize(("arch", "patch", "size"), SMALL[:4])
def test_every_family_pretrains_with_another_patch_and_hands_it_on_to_a_fine_tuning_and_a_graph(
    arch: str, patch: int, size: int, tmp_path: Path
) -> None:
    data = digits_folder(tmp_path / "data", per_class=4, size=32)
    shape = {"model__patch_size": patch, "dataset__augmentation__input_size": size}
    pretrained = spec(data, tmp_path / "pre", arch=arch, train__num_epochs=1, **shape)
    assert train(pretrained) == 0
    weights = next((tmp_path / "pre" / "train").glob("model_epoch_*.pth"))

    tuned = spec(data, tmp_path / "fine", "finetune", arch, train__num_epochs=1, **shape)
    tuned["train"]["pretrained_model_path"] = str(weights)
    assert train(tuned) == 0
    path = next((tmp_path / "fine" / "train").glob("model_epoch_*.pth"))
    module, saved = load_model(path)
    assert load_pretrained(load_model(path)[0], weights).share == 1.0
    assert saved.model["patch_size"] == patch and module.shape.patch == patch
    made = export.run(
        make_spec(export__checkpoint=str(path), dataset__val_data_sources=str(data)),
        make_context("export", tmp_path),
    )
    session = onnxruntime.InferenceSession(made["artefacts"][0], providers=["CPUExecutionProvider"])
    pixels = torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        expected = module(pixels).numpy()
    (actual,) = session.run(None, {"images": pixels.numpy()})
    np.testing.assert_allclose(actual, expected, atol=1e-4)


@pytest.mark.parametrize(("arch", "patch", "size"), SMALL)
def test_a_segmenter_has_its_levels_at_the_strides_of_its_patch(
    arch: str, patch: int, size: int
) -> None:
    made = make_spec(
        model__arch=arch,
        model__patch_size=patch,
        model__task="segmentation",
        model__num_classes=3,
        model__segmentation__channels=16,
        train__stage="finetune",
    )
    model = build_segmenter(made.model, size).eval()
    images = torch.randn(1, 3, size, size)
    finest = size // patch * (4 if arch.startswith("vit") else 1)
    sides = [finest >> level for level in range(4)]
    assert [level.shape[-1] for level in model.levels(images)] == sides
    assert model(images).shape == (1, 3, size, size)


def test_evaluation_with_another_patch_than_the_models_is_refused(tmp_path: Path) -> None:
    model = make_model("vit_tiny_patch16", "finetune", 32, patch_size=4)
    path = save_checkpoint(model, tmp_path / "model.pth")
    digits = write_digits(tmp_path / "digits", per_class=2, size=32)
    made = make_spec(
        model__patch_size=8, export__checkpoint=str(path), dataset__val_data_sources=str(digits)
    )
    given = {"model.patch_size": Origin(OriginKind.OVERRIDE)}
    with pytest.raises(SpecError) as caught:
        export.run(made, make_context("export", tmp_path, given))
    problem = caught.value
    assert (problem.field, problem.got, problem.expected) == ("model.patch_size", 8, "4")
