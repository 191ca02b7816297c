"""Images with masks: joint transforms keep them aligned, draws are functions of (seed, epoch,
index), bad pairs are named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mae_runners.data import (
    FunctionalSampler,
    SegmentationDataset,
    build_loader,
    build_segmentation_dataset,
)
from mae_runners.data.joint_transforms import JointTrainTransform, distort
from mae_runners.data.masks import MaskReader
from mae_skill.errors import DataError, SpecError
from mae_skill.spec import ExperimentSpec
from PIL import Image

from tests.data.test_pairs import encoded
from tests.support.images import photo
from tests.support.scenes import write_digit_scenes

PLAIN = {"scale_jitter": [1.0, 1.0], "max_class_share": 1.0, "photometric": False}


def dataset_spec(
    size: Any = 32, hflip: float = 0.0, joint: dict[str, Any] | None = None, **meaning: Any
) -> Any:
    section = {
        "augmentation": {"input_size": size, "hflip": hflip, "segmentation": joint or PLAIN},
        "segmentation": meaning,
    }
    return ExperimentSpec.model_validate({"dataset": section}).dataset


def transform(
    size: Any = 32, hflip: float = 0.0, ignore: int = 255, **joint: Any
) -> JointTrainTransform:
    return JointTrainTransform(dataset_spec(size, hflip, {**PLAIN, **joint}).augmentation, ignore)


def checker(height: int, width: int, cell: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """A picture whose pixels say their class: cells of classes 0 … 4, the color 50 × class."""
    rng = np.random.default_rng(height * 1000 + width)
    cells = rng.integers(0, 5, (-(-height // cell), -(-width // cell))).astype(np.uint8)
    mask = cells.repeat(cell, 0).repeat(cell, 1)[:height, :width]
    return np.repeat((mask * 50)[..., None], 3, axis=2), np.ascontiguousarray(mask)


@pytest.mark.parametrize("size", [(90, 70), (70, 90), (33, 32), (200, 300)], ids=str)
@pytest.mark.parametrize(
    "joint",
    [{}, {"scale_jitter": [0.5, 0.5]}, {"scale_jitter": [2.0, 2.0]}, {"scale_jitter": [0.5, 2.0]}],
    ids=str,
)
def test_image_and_mask_stay_aligned_through_resize_crop_flip_and_padding(
    size: tuple[int, int], joint: dict[str, Any]
) -> None:
    pixels, mask = checker(*size, cell=max(size) // 2)
    blend = 2 + int(max(64 / size[0], 48 / size[1]) * joint.get("scale_jitter", [1.0, 1.0])[1])
    for key in range(6):
        image, numbers = transform([64, 48], hflip=0.5, **joint)(pixels, mask, key)
        assert (
            image.shape == (64, 48, 3) and numbers.shape == (64, 48) and numbers.dtype == np.uint8
        )
        labeled = numbers != 255
        assert labeled.any()
        told = np.rint(image[..., 0] / 50).astype(int)
        inner = labeled & ~edges(numbers, blend)
        assert inner.any() and (told[inner] == numbers[inner]).all()
        assert (image[~labeled] == [124, 116, 104]).all(), "padding has the mean color"


def edges(numbers: np.ndarray, reach: int) -> np.ndarray:
    """Pixels within ``reach`` of another value, where resizing blends colors."""
    padded = np.pad(numbers.astype(int), reach, mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (2 * reach + 1, 2 * reach + 1))
    return np.asarray(windows.min((2, 3)) != windows.max((2, 3)))


def test_an_image_of_the_input_size_passes_unchanged_and_flips_as_one() -> None:
    pixels, mask = checker(40, 40)
    image, numbers = transform(40)(pixels, mask, 3)
    assert np.array_equal(image, pixels) and np.array_equal(numbers, mask)
    image, numbers = transform(40, hflip=1.0)(pixels, mask, 3)
    assert np.array_equal(image, pixels[:, ::-1]) and np.array_equal(numbers, mask[:, ::-1])


def test_the_scale_is_drawn_around_the_one_that_covers_the_input() -> None:
    pixels, mask = checker(60, 120)
    shares = []
    for key in range(200):
        _, numbers = transform(30, scale_jitter=[0.5, 1.0])(pixels, mask, key)
        height = int((numbers != 255).any(1).sum())
        assert 15 <= height <= 30
        shares.append(height)
    assert min(shares) <= 17 and max(shares) >= 29
    _, numbers = transform(30, scale_jitter=[1.0, 1.0])(pixels, mask, 0)
    assert (numbers != 255).all()


def test_a_crop_of_one_class_is_drawn_again() -> None:
    """The left half is class 0, a strip at the right class 1: with the rule most crops see both."""
    mask = np.zeros((32, 256), np.uint8)
    mask[:, 224:] = 1
    pixels = np.repeat(mask[..., None], 3, axis=2)

    def both(share: float) -> int:
        made = [transform(32, max_class_share=share)(pixels, mask, key)[1] for key in range(100)]
        return sum(len(np.unique(numbers)) == 2 for numbers in made)

    assert both(1.0) < 30 and both(0.75) > both(1.0) + 15
    mask[:] = 255
    assert transform(32, max_class_share=0.5)(pixels, mask, 1)[1].shape == (32, 32), (
        "nothing labeled: the last draw stands"
    )


def test_photometric_distortion_moves_colors_within_its_bounds_and_never_the_mask() -> None:
    pixels = np.asarray(photo(3, 48, 48))
    _, mask = checker(48, 48)
    import random

    made = [distort(pixels, random.Random(key)) for key in range(40)]
    assert 1 < sum(np.array_equal(one, pixels) for one in made) < 20, (
        "each of the four is off half of the time"
    )
    gray = np.full((4, 4, 3), 100, np.uint8)
    means = [float(distort(gray, random.Random(key)).mean()) for key in range(300)]
    assert 100 * 0.5 - 33 <= min(means) < 60 and 150 < max(means) <= (100 + 32) * 1.5 + 1
    plain, moved = (transform(48, photometric=on)(pixels, mask, 5) for on in (False, True))
    assert np.array_equal(plain[1], moved[1]) and np.array_equal(plain[0], pixels)


@pytest.mark.parametrize(("reduce", "classes"), [(True, [255, 0, 1, 2]), (False, [0, 1, 2, 3])])
def test_mask_values_become_class_numbers(reduce: bool, classes: list[int]) -> None:
    stored = np.array([[0, 1, 2, 3, 255]], np.uint8)
    numbers, strange, _ = MaskReader(4, 255, reduce)(encoded(Image.fromarray(stored), "PNG"), "m")
    assert numbers.tolist() == [[*classes, 255]] and numbers.dtype == np.uint8 and strange is None
    _, strange, _ = MaskReader(2, 255, reduce)(encoded(Image.fromarray(stored), "PNG"), "m")
    assert strange == (3 if reduce else 2)


def test_more_than_255_classes_take_16_bit_masks() -> None:
    stored = np.array([[0, 300, 1000, 65535]], np.uint16)
    reader = MaskReader(1000, 65535)
    numbers, strange, _ = reader(encoded(Image.fromarray(stored), "PNG"), "m")
    assert (
        numbers.dtype == np.int32
        and numbers.tolist() == [[65535, 299, 999, 65535]]
        and strange is None
    )
    pixels = np.zeros((1, 4, 3), np.uint8)
    _, mask = transform(8, ignore=65535)(pixels, numbers, 0)
    assert (
        mask.dtype == np.int32
        and mask.shape == (8, 8)
        and set(np.unique(mask)) <= {299, 999, 65535}
    )


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_digit_scenes(
        tmp_path_factory.mktemp("scenes") / "set", training=5, validation=3, size=32
    )


def build(
    root: Path,
    role: str = "train",
    seed: int = 1,
    classes: int = 11,
    corrupt: float = 0.01,
    **meaning: Any,
) -> SegmentationDataset:
    made = dataset_spec(
        32,
        0.5,
        {"scale_jitter": [0.5, 2.0], "max_class_share": 0.75, "photometric": True},
        **meaning,
    )
    made.max_corrupt_fraction = corrupt
    return build_segmentation_dataset(
        str(root),
        None,
        role=role,
        train=role == "train",
        dataset=made,
        num_classes=classes,
        seed=seed,
    )


def test_an_item_depends_on_seed_epoch_and_index_alone(scenes: Path) -> None:
    one, again, other = build(scenes), build(scenes), build(scenes, seed=2)
    for key in ((0, 3), (1, 3), (1, 4)):
        a, b, c = one[key], again[key], other[key]
        assert torch.equal(a["image"], b["image"]) and torch.equal(a["mask"], b["mask"])
        assert not torch.equal(a["image"], c["image"])
    assert not torch.equal(one[0, 3]["image"], one[1, 3]["image"])
    assert one[0, 3]["image"].shape == (3, 32, 32) and one[0, 3]["mask"].shape == (32, 32)


def batches(
    dataset: SegmentationDataset, size: int, workers: int = 0
) -> list[dict[str, torch.Tensor]]:
    return list(
        build_loader(
            dataset,
            FunctionalSampler(len(dataset), 1, shuffle=False),
            size,
            workers,
            persistent=False,
        )
    )


def test_evaluation_batches_hold_whole_pictures_padded_to_the_largest(scenes: Path) -> None:
    dataset = build(scenes, "val", class_list=str(scenes / "classes.txt"))
    assert dataset.classes[0] == "background" and len(dataset.classes) == 11 and dataset.has_masks
    (batch,) = batches(dataset, 3, workers=1)
    assert (
        batch["image"].dtype == torch.uint8
        and batch["mask"].dtype == torch.uint8
        and batch["valid"].all()
    )
    assert (
        batch["size"].amax(0).tolist()
        == list(batch["mask"].shape[1:])
        == list(batch["image"].shape[2:])
    )
    assert len({tuple(size) for size in batch["size"].tolist()}) > 1
    for i, (height, width) in enumerate(batch["size"].tolist()):
        image, mask = (
            Image.open(scenes / f"{kind}/validation/{i:05d}.{end}")
            for kind, end in (("images", "jpg"), ("annotations", "png"))
        )
        assert mask.size == (width, height) == image.size
        expected = np.asarray(mask).astype(int) - 1
        assert np.array_equal(
            batch["mask"][i, :height, :width].numpy(), np.where(expected < 0, 255, expected)
        )
        assert (batch["mask"][i, height:] == 255).all() and (
            batch["mask"][i, :, width:] == 255
        ).all()
        assert not batch["image"][i, :, height:].any() and not batch["image"][i, :, :, width:].any()


def test_images_without_masks_are_all_ignored_in_inference(tmp_path: Path) -> None:
    photo(1, 20, 24).save(tmp_path / "a.png")
    dataset = build(tmp_path, "test")
    assert not dataset.has_masks
    assert (batches(dataset, 2)[0]["mask"] == 255).all()


def spoil(scenes: Path, root: Path, index: int, what: str) -> Path:
    """A copy of the set in which one training pair is bad."""
    import shutil

    copy = Path(shutil.copytree(scenes, root / "copy"))
    image, mask = (
        copy / f"images/training/{index:05d}.jpg",
        copy / f"annotations/training/{index:05d}.png",
    )
    if what == "image":
        image.write_bytes(image.read_bytes()[:200])
    elif what == "mask":
        mask.write_bytes(b"broken")
    elif what == "size":
        Image.fromarray(np.asarray(Image.open(mask))[1:]).save(mask)
    else:
        values = np.array(Image.open(mask))
        values[0, 0] = 200
        Image.fromarray(values).save(mask)
    return copy


@pytest.mark.parametrize("what", ["image", "mask", "size"])
def test_a_bad_pair_is_named_counted_and_replaced(
    scenes: Path, tmp_path: Path, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    copy = spoil(scenes, tmp_path, 2, what)
    dataset = build(copy, corrupt=0.2)
    (batch,) = batches(dataset, 5)
    assert batch["valid"].tolist() == [True, True, False, True, True]
    assert dataset.corrupt == [str(copy / "images/training/00002.jpg")] and "00002" in caplog.text
    with pytest.raises(DataError, match=r"1 of 5 images cannot be read: .*00002\.jpg \(") as caught:
        batches(build(copy, corrupt=0.1), 5)
    assert caught.value.field == "dataset.max_corrupt_fraction"
    if what == "size":
        assert "and its mask" in caught.value.message


@pytest.mark.parametrize("workers", [0, 1])
def test_a_value_that_is_no_class_stops_the_run_whatever_is_tolerated(
    scenes: Path, tmp_path: Path, workers: int
) -> None:
    copy = spoil(scenes, tmp_path, 1, "value")
    with pytest.raises(DataError, match="holds the value 200, which is not a class") as caught:
        batches(build(copy, corrupt=1.0), 5, workers)
    assert caught.value.field == "model.num_classes" and "1 … 11" in str(caught.value.expected)
    batches(build(copy, classes=200), 5)


def test_a_spec_that_does_not_fit_the_masks_is_refused(scenes: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="names 11 classes"):
        build(scenes, classes=12, class_list=str(scenes / "classes.txt"))
    for value in (10, 11):  # 0 is unlabeled, and 11 the last class
        with pytest.raises(SpecError, match="is the number of one of the 11 classes"):
            build(scenes, ignore_index=value)
    with pytest.raises(DataError, match="there is no class list"):
        build(scenes, class_list=str(tmp_path / "missing.txt"))
    assert build(scenes).classes == [str(i) for i in range(11)]
    assert build(scenes, classes=150).classes[:2] == ["wall", "building"]
