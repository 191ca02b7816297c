"""Every augmentation field acts, and every draw is a function of (seed, epoch, index)."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from mae_runners.data.transforms import (
    EvalTransform,
    TrainTransform,
    change_affine,
    random_box,
    resize,
)
from mae_skill.errors import SpecError
from PIL import Image

from tests.support.augment import augmentation
from tests.support.images import jpeg, photo

DATA = jpeg(3, 200, 150)


def train(stage: str = "finetune", key: int = 7, data: bytes = DATA, **changed: Any) -> np.ndarray:
    return TrainTransform(augmentation(**changed), finetune=stage == "finetune")(data, "x", key)


BASE = {"min_scale": 0.1, "max_scale": 2.0}


@pytest.mark.parametrize(
    "changed",
    [
        {"min_scale": 0.9},
        {"max_scale": 0.15},
        {"min_ratio": 1.2},
        {"max_ratio": 0.8},
        {"hflip": 1.0},
        {"color_jitter": 0.5},
        {"interpolation": "bicubic"},
        {"vflip": 1.0},
        {"rotation": 20.0},
        {"shear": 10.0},
        {"zoom": 0.3},
        {"shift": 0.1},
    ],
)
@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_the_fields_of_both_stages_act_in_both(stage: str, changed: dict[str, Any]) -> None:
    assert any(
        not np.array_equal(train(stage, key, **BASE), train(stage, key, **{**BASE, **changed}))
        for key in range(5)
    )


@pytest.mark.parametrize(
    "changed",
    [
        {"auto_aug": "rand-m9-mstd0.5-inc1"},
        {"auto_aug": "augmix-m3-w3"},
        {"auto_aug": "original"},
        {"re_prob": 1.0},
    ],
)
def test_the_fields_of_finetuning_act_there_alone(changed: dict[str, Any]) -> None:
    assert any(
        not np.array_equal(train("finetune", key), train("finetune", key, **changed))
        for key in range(8)
    )
    assert all(
        np.array_equal(train("pretrain", key), train("pretrain", key, **changed))
        for key in range(8)
    )


@pytest.mark.parametrize(
    "policy", ["rand-m10-inc1", "rand-m0", "augmix-m10", "original", "v0", "originalr", "v0r", "3a"]
)
def test_a_policy_at_its_extremes_never_fails(policy: str) -> None:
    plain = train("finetune", 0)
    assert {
        (image.shape, image.dtype)
        for image in (train("finetune", key, auto_aug=policy) for key in range(60))
    } == {(plain.shape, plain.dtype)}


def test_an_unknown_policy_names_the_field() -> None:
    with pytest.raises(SpecError) as caught:
        train(auto_aug="rand-zz9")
    assert caught.value.field == "dataset.augmentation.auto_aug"


def test_a_sample_depends_on_its_key_alone_and_leaves_the_global_generators_as_they_were() -> None:
    everything = {
        **BASE,
        "hflip": 0.5,
        "vflip": 0.5,
        "rotation": 10.0,
        "zoom": 0.2,
        "color_jitter": 0.4,
        "auto_aug": "rand-m9-mstd0.5-inc1",
        "re_prob": 0.5,
        "interpolation": "random",
    }
    random.seed(1)
    np.random.seed(1)
    expected = random.Random(1).random(), np.random.RandomState(1).rand()
    first = [train(key=key, **everything) for key in range(4)]
    assert (random.random(), np.random.rand()) == expected
    random.seed(99)
    assert all(np.array_equal(a, train(key=key, **everything)) for key, a in enumerate(first))
    assert not np.array_equal(first[0], first[1])


class AtTheTop(random.Random):
    """Draws the upper end of every range."""

    def uniform(self, a: float, b: float) -> float:
        return b


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, lambda square: square),
        ({"rotation": 90.0}, lambda square: np.rot90(square, -1)),
        ({"rotation": 180.0}, lambda square: square[::-1, ::-1]),
        ({"shift": 0.25}, lambda square: np.pad(square, ((16, 0), (16, 0), (0, 0)), "reflect")),
    ],
)
def test_an_affine_change_at_its_end_is_the_turn_or_the_move_that_it_names(
    change: dict[str, float], expected: Any
) -> None:
    square = np.asarray(photo(5, 64, 64))
    amounts = {"rotation": 0.0, "shear": 0.0, "zoom": 0.0, "shift": 0.0, **change}
    got = change_affine(square, AtTheTop(), **amounts, interpolation="bilinear")
    wanted = expected(square)[:64, :64]
    assert np.abs(got.astype(int) - wanted.astype(int)).max() <= 1


def test_zoom_enlarges_about_the_center_and_shear_slants_the_rows() -> None:
    dot = np.zeros((65, 65, 3), np.uint8)
    dot[31:34, 31:34] = 255
    flat = {"rotation": 0.0, "shift": 0.0, "interpolation": "bilinear"}
    twice = change_affine(dot, AtTheTop(), shear=0.0, zoom=1.0, **flat)
    rows, columns = np.nonzero(twice[:, :, 0] > 127)
    assert (rows.min() + rows.max()) / 2 == (columns.min() + columns.max()) / 2 == 32
    assert rows.max() - rows.min() in (4, 5, 6)

    line = np.zeros((65, 65, 3), np.uint8)
    line[:, 32] = 255
    slanted = change_affine(line, AtTheTop(), shear=45.0, zoom=0.0, **flat)[:, :, 0]
    assert slanted[42].argmax() == 42 and slanted[22].argmax() == 22


def test_random_interpolation_draws_both_kernels() -> None:
    both = {
        train(key=key, interpolation="random", max_scale=1.0, min_scale=0.3).tobytes()
        == train(key=key, min_scale=0.3).tobytes()
        for key in range(20)
    }
    assert both == {True, False}


def test_crops_are_distributed_as_torchvisions() -> None:
    import torch
    from torchvision.transforms import RandomResizedCrop

    torch.manual_seed(0)
    picture = Image.new("RGB", (200, 150))
    theirs = np.array(
        [RandomResizedCrop.get_params(picture, [0.1, 2.0], [0.75, 1.33])[2:] for _ in range(3000)]
    )
    rng = random.Random(0)
    ours = np.array([random_box(rng, 200, 150, (0.1, 2.0), (0.75, 1.33))[2:] for _ in range(3000)])[
        :, ::-1
    ]
    for share in (10, 50, 90):
        assert np.allclose(
            np.percentile(theirs, share, axis=0), np.percentile(ours, share, axis=0), rtol=0.05
        )


def test_a_crop_stays_inside_extreme_pictures() -> None:
    rng = random.Random(0)
    for width, height in ((1, 1), (1, 500), (500, 1), (3, 7)):
        for _ in range(50):
            x, y, w, h = random_box(rng, width, height, (0.1, 2.0), (0.75, 1.33))
            assert x >= 0 and y >= 0 and w >= 1 and h >= 1 and x + w <= width and y + h <= height


@pytest.mark.parametrize("size", [(500, 375), (300, 260), (120, 90)])
@pytest.mark.parametrize("kernel", ["bilinear", "bicubic"])
def test_resizing_agrees_with_pillow_within_two_levels_on_average(
    size: tuple[int, int], kernel: str
) -> None:
    picture = photo(5, *size)
    want = np.asarray(
        picture.resize(
            (224, 160),
            Image.Resampling.BILINEAR if kernel == "bilinear" else Image.Resampling.BICUBIC,
        )
    ).astype(int)
    assert np.abs(resize(np.asarray(picture), 224, 160, kernel).astype(int) - want).mean() < 2


@pytest.mark.parametrize("size", [64, [64, 96], [96, 64]])
@pytest.mark.parametrize("shape", [(200, 150), (150, 200), (40, 30)])
def test_evaluation_equals_torchvisions_resize_and_center_crop(
    size: Any, shape: tuple[int, int]
) -> None:
    picture = photo(3, *shape)
    pixels = EvalTransform(augmentation(input_size=size)).fit(np.asarray(picture))
    height, width = (size, size) if isinstance(size, int) else size
    assert pixels.shape == (height, width, 3)
    if isinstance(size, int):
        from torchvision.transforms import CenterCrop, InterpolationMode, Resize

        want = CenterCrop(64)(Resize(int(64 / 0.875), InterpolationMode.BICUBIC)(picture))
        assert np.array_equal(pixels, np.asarray(want))


@pytest.mark.parametrize("share", [1.0, 0.9, 0.5])
def test_the_center_crop_leaves_the_margin_that_the_spec_says(share: float) -> None:
    from torchvision.transforms import CenterCrop, InterpolationMode, Resize

    picture = photo(3, 200, 150)
    pixels = EvalTransform(augmentation(input_size=64, center_crop=share)).fit(np.asarray(picture))
    want = CenterCrop(64)(Resize(int(64 / share), InterpolationMode.BICUBIC)(picture))
    assert np.array_equal(pixels, np.asarray(want))


@pytest.mark.parametrize("kernel", ["bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize("size", [64, [64, 96]])
def test_evaluation_equals_timms_transform_by_each_filter(kernel: str, size: Any) -> None:
    from timm.data import create_transform

    height, width = (size, size) if isinstance(size, int) else size
    theirs = create_transform(
        (3, height, width), interpolation=kernel, crop_pct=0.8, mean=(0,) * 3, std=(1,) * 3
    )
    ours = EvalTransform(augmentation(input_size=size, center_crop=0.8, eval_interpolation=kernel))
    for shape in ((200, 150), (40, 30)):
        picture = photo(3, *shape)
        wanted = (theirs(picture) * 255).round().numpy().transpose(1, 2, 0)
        assert np.array_equal(ours.fit(np.asarray(picture)), wanted)


def test_each_filter_resizes_bands_of_floats_as_well() -> None:
    deep = np.random.default_rng(0).uniform(0, 255, (50, 70, 5)).astype(np.float32)
    seen = [
        EvalTransform(augmentation(input_size=32, eval_interpolation=kernel)).fit(deep)
        for kernel in ("bilinear", "bicubic", "lanczos")
    ]
    assert all(one.shape == (32, 32, 5) and one.dtype == np.float32 for one in seen)
    assert all(one.min() >= 0 and one.max() <= 255 for one in seen)  # lanczos rings
    assert not np.allclose(seen[0], seen[1]) and not np.allclose(seen[1], seen[2])


def test_reduced_decode_takes_the_same_crop_and_never_one_below_the_input_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from mae_runners.data import transforms

    data = jpeg(2, 800, 600)
    factors, differences = [], []
    real = transforms.decode

    def spy(data: bytes, name: str, *reading: Any, reduce: int = 1) -> np.ndarray:
        factors.append(reduce)
        return real(data, name, *reading, reduce=reduce)

    monkeypatch.setattr(transforms, "decode", spy)
    seen = []
    monkeypatch.setattr(
        transforms,
        "resize",
        lambda pixels, w, h, k: seen.append(pixels.shape) or resize(pixels, w, h, k),
    )
    for key in range(30):
        plain = train(key=key, data=data, min_scale=0.02, max_scale=1.0)
        fast = train(key=key, data=data, min_scale=0.02, max_scale=1.0, reduced_decode=True)
        differences.append(np.abs(plain.astype(int) - fast.astype(int)).mean())
        if factors[-1] > 1:
            assert (
                min(seen[-1][:2]) >= 63
            )  # rounding may cost one row of a box that lies between pixels
    assert set(factors) >= {1, 2, 4}
    assert (
        np.median(differences) < 5 and max(differences) < 15
    )  # another crop would differ by 40 and more
