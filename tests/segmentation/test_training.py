"""Segmenters are trained by the one loop: they learn, go on where they stopped, and follow the
golden curve."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mae_runners.models import checkpoint
from mae_runners.tasks.segment import SegmentationTask
from mae_sdk import Skill
from mae_skill.errors import SpecError
from mae_skill.spec import ExperimentSpec
from PIL import Image

from tests.support.deploy import make_context
from tests.support.segmentation import PLAIN, scenes, seg_spec
from tests.support.training import curve, read, spec, train, values

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scenes(tmp_path_factory.mktemp("data") / "scenes", training=6, validation=3)


def test_two_pictures_are_learned_by_heart(tmp_path: Path) -> None:
    folders = [tmp_path / "stripes" / kind for kind in ("images", "annotations")]
    for folder in folders:
        folder.mkdir(parents=True)
    for number, wide in enumerate((True, False)):
        mask = np.ones((64, 64), np.uint8)
        mask[:, 16:40] = 2
        mask[20:50, 8:30] = 3
        mask[:4] = 0  # unlabeled: may be anything
        mask = mask if wide else mask.T
        colors = np.array([(0, 0, 0), (30, 120, 60), (200, 40, 40), (60, 60, 220)], np.uint8)
        Image.fromarray(colors[mask]).save(folders[0] / f"{number}.png")
        Image.fromarray(mask).save(folders[1] / f"{number}.png")
    made = seg_spec(
        tmp_path / "stripes",
        tmp_path / "job",
        **PLAIN,
        model__num_classes=3,
        dataset__segmentation__class_list=["ground", "post", "sign"],
        dataset__val_data_sources=str(tmp_path / "stripes"),
        dataset__batch_size=2,
        train__num_epochs=80,
        train__validation_interval=80,
        train__checkpoint_interval=80,
        train__optim__lr=5e-3,
        train__optim__lr_scheduler="poly",
    )
    assert train(made) == 0
    found = read(tmp_path / "job", "train/result.json")["kpis"]
    assert found["mIoU"] > 0.9 and found["aAcc"] > 0.95, found
    table = (tmp_path / "job" / "train" / "per_class_iou.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in table] == ["class", "ground", "post", "sign"]


@pytest.mark.parametrize("arch", ["vit_tiny_patch16", "convnextv2_atto", "hiera_tiny_224"])
def test_twelve_steps_give_the_golden_losses(data: Path, tmp_path: Path, arch: str) -> None:
    changes = {
        "train__num_epochs": 4,
        "dataset__batch_size": 2,
        "train__checkpoint_interval": 4,
        # At 1e-3 the same code departs by 2e-3 between processors of two makers (normalization over
        # two images, Adam's steps of equal size for gradients that are mere rounding): at 1e-4 by
        # 3e-5.
        "train__optim__lr": 1e-4,
    }
    made = seg_spec(
        data,
        tmp_path / "job",
        arch,
        **changes,
        train__optim__lr_scheduler="cosine",
        train__optim__warmup_epochs=1,
    )
    assert train(made) == 0
    losses = values(tmp_path / "job")
    assert len(losses) == 12
    path = GOLDEN / f"{arch}_segmentation.json"
    if os.environ.get("MAE_UPDATE_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(
            json.dumps({"arch": arch, "train_loss_step": [float(f"{loss:.8g}") for loss in losses]})
            + "\n"
        )
    assert losses == pytest.approx(json.loads(path.read_text())["train_loss_step"], rel=1e-4)


def test_a_resumed_run_follows_the_curve_of_one_that_never_stopped_with_average_and_statistics(
    data: Path, tmp_path: Path
) -> None:
    changes = {
        "dataset__batch_size": 2,
        "train__num_epochs": 3,
        "train__checkpoint_interval": 2,
        "train__checkpoint_interval_unit": "step",
    }
    changes |= {
        "train__ema_decay": 0.9,
        "train__optim__lr": 1e-3,
        "train__optim__lr_scheduler": "poly",
        "train__clip_grad_norm": 1.0,
    }
    made = seg_spec(
        data,
        tmp_path / "job",
        **changes,
        dataset__val_data_sources=str(data),
        model__drop_path_rate=0.1,
    )
    assert train(made) == 0
    whole = tmp_path / "whole"
    shutil.copytree(tmp_path / "job", whole)
    folder = tmp_path / "job" / "train"
    names = sorted(path.name for path in folder.glob("model_epoch_*.pth"))
    assert "model_epoch_001_step_00004.pth" in names
    for name in names:
        if name > "model_epoch_001_step_00004.pth":
            (folder / name).unlink()
    assert train(made) == 0
    for name in ("train_loss_step", "lr", "grad_norm", "train_loss", "val_loss", "mIoU"):
        assert curve(tmp_path / "job", name) == curve(whole, name), name
    ours, theirs = (
        checkpoint.read(root / "train" / names[-1]) for root in (tmp_path / "job", whole)
    )
    for part in ("state_dict", "live_state_dict"):
        assert ours[part].keys() == theirs[part].keys()
        assert all(torch.equal(ours[part][name], theirs[part][name]) for name in ours[part]), part
    statistics = [name for name in ours["state_dict"] if name.endswith("running_var")]
    assert statistics and all(
        not torch.equal(ours["state_dict"][name], ours["live_state_dict"][name])
        for name in statistics
    )


def test_pretrained_weights_bring_layer_wise_rates_and_the_best_is_chosen_by_iou(
    data: Path, tmp_path: Path
) -> None:
    made = spec(data / "images" / "training", tmp_path / "pretrain", train__num_epochs=1)
    assert train(made) == 0
    weights = tmp_path / "pretrain" / "train" / "vit_tiny_patch16_latest.pth"
    made = seg_spec(
        data,
        tmp_path / "job",
        dataset__val_fraction=0.34,
        train__pretrained_model_path=str(weights),
        train__optim__layer_decay=0.5,
        train__optim__backbone_multiplier=1.0,
        train__optim__lr=1e-3,
    )
    assert train(made) == 0
    derived = read(tmp_path / "job", "train/derived.json")
    assert derived["images"] == 4 and derived["best_checkpoint_by"] == "mIoU maximize"
    assert derived["pretrained"]["share"] == 1.0
    assert {group["scale"] for group in derived["parameter_groups"]} == {0.125, 0.25, 0.5, 1.0}, (
        "embedding, two blocks, head"
    )
    entries = read(tmp_path / "job", "train/checkpoints.json")["checkpoints"]
    best = read(tmp_path / "job", "train/result.json")["best"]
    assert best["metrics"]["mIoU"] == max(entry["metrics"]["mIoU"] for entry in entries)
    meta = checkpoint.read_meta(
        checkpoint.read(weights.parent.parent.parent / "job" / "train" / best["file"])
    )
    assert (meta.task, meta.num_classes, meta.classes[:2]) == (
        "segmentation",
        11,
        ["background", "digit 0"],
    )
    pictures = sorted((tmp_path / "job" / "train" / "pictures").glob("segmentation_epoch_*.png"))
    assert [path.name for path in pictures] == [
        "segmentation_epoch_000.png",
        "segmentation_epoch_001.png",
    ]


class Sums:
    """Stands for the ranks and keeps what they were to add up."""

    def __init__(self, found: list[torch.Tensor]) -> None:
        self.found = found

    def sum_over_ranks(self, values: torch.Tensor) -> torch.Tensor:
        self.found.append(values.clone())
        return values


def test_every_rank_makes_as_many_passes_over_a_set_that_does_not_divide_and_no_image_counts_twice(
    tmp_path: Path,
) -> None:
    """5 pictures over 2 ranks in batches of 2: rank 1's last batch holds nothing but a filler, and
    sharded weights need its pass all the
    same. Two real processes: tests/long/segmentation/test_peers.py."""
    data = scenes(tmp_path / "scenes", training=2, validation=5)
    made = seg_spec(data, tmp_path, dataset__val_data_sources=str(data), dataset__batch_size=2)
    whole, sums = make_context("train", tmp_path), []
    for rank, world in ((0, 1), (0, 2), (1, 2)):
        task = SegmentationTask(
            ExperimentSpec.model_validate(made),
            dataclasses.replace(whole, rank=rank, world_size=world),
        )
        passes: list[int] = []
        module = task.model.eval()
        module.register_forward_pre_hook(
            lambda _, images, passes=passes: passes.append(len(images[0]))
        )
        found: list[torch.Tensor] = []
        task.validate(module, Sums(found))
        assert passes == ([2, 1] if world == 2 else [2, 2, 1])
        sums.append(found[0].numpy())
    assert np.allclose(sums[0], sums[1] + sums[2])
    assert sums[0][-3] == sums[0][:121].sum() > 0, "labeled pixels"
    assert sums[0][-2] == 5, "images"
    assert sums[0][-1] > sums[0][-3], "all pixels"


def test_weights_by_name_are_those_of_the_segmenters_classes(tmp_path: Path) -> None:
    data = scenes(tmp_path / "scenes", training=2, validation=1)

    def task_of(**weights: float) -> SegmentationTask:
        made = seg_spec(data, tmp_path, train__class_weights=weights)
        spec = ExperimentSpec.model_validate(made)
        return SegmentationTask(spec, make_context("train", tmp_path))

    task = task_of(**{"digit 1": 5.0})
    classes = task.spec.model.num_classes
    assert task.weights is not None
    assert task.weights.tolist() == [5.0 if index == 2 else 1.0 for index in range(classes)]
    batch = task.train.collate([task.train[0, index] for index in (0, 1)])
    logits = torch.randn(2, classes, *batch["mask"].shape[1:])
    loss = task.training_step(lambda images: [logits], batch, (0, 0, 0))  # type: ignore[arg-type]
    each = torch.nn.functional.cross_entropy(
        logits, batch["mask"].long(), task.weights, ignore_index=255, reduction="none"
    )
    assert float(loss) == pytest.approx(float(each.mean()), rel=1e-5)
    with pytest.raises(SpecError, match="named zebra"):
        task_of(zebra=2.0)


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ("balanced", "a mask holds several classes"),
        ({"zebra": 2.0}, "named zebra"),
        ({f"digit {number}": 0 for number in range(10)}, "background alone counts"),
    ],
)
def test_the_plan_refuses_weights_that_a_segmenter_cannot_take(
    weights: Any, said: str, tmp_path: Path
) -> None:
    data = scenes(tmp_path / "scenes", training=2, validation=1)
    made = seg_spec(data, tmp_path, train__class_weights=weights)
    with pytest.raises(SpecError, match=said) as caught:
        Skill().plan("train", spec=made, automl_policy="off")
    assert caught.value.field == "train.class_weights"


def test_masks_without_a_label_to_judge_by_are_an_error(tmp_path: Path) -> None:
    data = scenes(tmp_path / "scenes", training=2, validation=1)
    for path in (data / "annotations" / "validation").iterdir():
        Image.fromarray(np.zeros_like(np.asarray(Image.open(path)))).save(path)
    made = seg_spec(
        data, tmp_path / "job", dataset__val_data_sources=str(data), train__num_epochs=1
    )
    assert train(made) == 3
    error = read(tmp_path / "job", "error.json")
    assert error["field"] == "dataset.val_data_sources" and "label" in error["message"]


def test_other_masks_under_the_same_names_are_refused_and_those_of_the_validation_are_named(
    data: Path, tmp_path: Path
) -> None:
    own = tmp_path / "scenes"
    shutil.copytree(data, own)

    def made(epochs: int, **changes: Any) -> dict[str, Any]:
        few = {"dataset__val_data_sources": str(own), "train__num_epochs": epochs}
        return seg_spec(own, tmp_path / "job", "convnextv2_atto", **PLAIN, **few, **changes)

    def swap(split: str) -> None:
        for path in (own / "annotations" / split).glob("*.png"):
            pixels = np.array(Image.open(path))
            Image.fromarray(np.roll(pixels, 7, axis=1)).save(path)

    assert train(made(1)) == 0
    moved = tmp_path / "elsewhere"
    shutil.copytree(own, moved)  # of other times, and the same masks
    shutil.rmtree(own)
    shutil.copytree(moved, own)
    swap("validation")
    assert train(made(2)) == 0
    warned = read(tmp_path / "job", "train/result.json")["warnings"]
    assert any("validation masks of the images are not those" in text for text in warned)
    swap("training")
    newest = f"train.resume_training_checkpoint_path={tmp_path / 'job/train/model_epoch_001.pth'}"
    for how in ([], [newest]):  # as `mae jobs resume` points it
        (tmp_path / "job/error.json").unlink(missing_ok=True)
        assert train(made(3), *how) == 2
        error = read(tmp_path / "job", "error.json")
        assert error["field"] == "dataset.train_data_sources"
        assert error["got"] == "6 images with other masks"
        assert "give it these masks again" in error["hint"]
    other = {**made(3), "results_dir": str(tmp_path / "new")}
    assert train(other, newest) == 0, "a new run that names the file goes on with them"
    warned = read(tmp_path / "new", "train/result.json")["warnings"]
    assert any("6 images with other masks" in text for text in warned)
