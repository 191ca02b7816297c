"""What ranks share: the images of a step, each counted once, and with FSDP the weights. All runs of
this file start from one process."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from mae_runners.models import checkpoint
from mae_runners.training import position

from tests.models.test_teacher import SMALL, teacher_file
from tests.support.ranks import seen, train_on_ranks
from tests.support.training import PLAIN, curve, digits_folder, read, spec, values

#: 13 images do not divide by two ranks: the last micro-batch of rank 1 holds nothing but a filler
IMAGES = 13
OPTIONS = {
    "train__optim__lr": 1e-3,
    "train__optim__warmup_epochs": 0,
    "train__clip_grad_norm": 1.0,
    "train__optim__lr_scheduler": "cosine",
}
STEPS = {"train__checkpoint_interval": 1, "train__checkpoint_interval_unit": "step"}
FINETUNE = {key.replace(".", "__"): value for key, value in PLAIN.items()} | {
    "train__accum_grad_batches": 2,
    "train__num_epochs": 1,
}
SERIES = ("train_loss_step", "train_loss", "grad_norm", "val_loss")


def copied(job: Path, to: Path, last: str) -> Path:
    """A run as a kill would have left it when `last` was its newest checkpoint."""
    shutil.copytree(job, to, symlinks=True)
    for path in position.newest_first(to / "train"):
        if path.name == last:
            break
        path.unlink()
    for path in to.glob("seen-*"):
        path.unlink()
    return to


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("ranks")
    data, val = (
        digits_folder(root / "data", per_class=5),
        digits_folder(root / "val", per_class=3, start=5),
    )
    for _ in range(2):
        next(data.rglob("*.png")).unlink()
    options = {**OPTIONS, "dataset__val_data_sources": str(val)}
    probed = {
        **options,
        "dataset__probe_train_data_sources": str(data),
        "dataset__probe_val_data_sources": str(val),
    }
    probed |= {"train__probe__interval": 1, "train__probe__k": 3}
    pair = {"dataset__batch_size": 2, "train__num_gpus": 2}
    fsdp = {
        **pair,
        **probed,
        "train__distributed_strategy": "fsdp",
        "train__ema_decay": 0.9,
        "train__num_epochs": 3,
    }

    def one(name: str, stage: str = "pretrain", **changes: Any) -> tuple[dict[str, Any], int]:
        world = int(changes.get("train__num_gpus", 1))
        return spec(data, root / name, stage, **changes), world

    broken = digits_folder(root / "broken", per_class=5)
    sorted(broken.rglob("*.png"))[3].write_bytes(b"no image")
    torn = {
        **options,
        "dataset__train_data_sources": str(broken),
        "dataset__max_corrupt_fraction": 0.1,
        "train__num_epochs": 1,
    }
    first = [
        one("single", **probed, **STEPS),
        one("pair", **pair, **probed, **STEPS),
        one("single-finetune", "finetune", **options, **FINETUNE),
        one("pair-finetune", "finetune", **pair, **options, **FINETUNE),
        one("single-broken", **torn),
        one("pair-broken", **pair, **torn),
        one("ddp", **{**fsdp, "train__distributed_strategy": "ddp"}),
        one("fsdp", **fsdp, **STEPS),
        one("fsdp-bf16", **{**fsdp, "train__precision": "bf16", "train__num_epochs": 1}),
        one(
            "bf16",
            **{
                **fsdp,
                "train__distributed_strategy": "ddp",
                "train__precision": "bf16",
                "train__num_epochs": 1,
            },
        ),
    ]
    bursting = {
        "train__optim__lr": 1e4,
        "train__optim__warmup_epochs": 0,
        "train__optim__weight_decay": 1e4,
    }
    bad = [
        one("bad", **pair, **bursting),
        one("bad-fsdp", **pair, **bursting, train__distributed_strategy="fsdp"),
    ]
    codes, told = train_on_ranks(*first, *bad)
    assert codes == [*([0] * world for _, world in first), [5, 5], [5, 5]], told
    newest = "model_epoch_000_step_00002.pth"
    copied(root / "pair", root / "fewer", newest)
    copied(root / "single", root / "more", newest)
    copied(root / "fsdp", root / "fsdp-resumed", "model_epoch_001_step_00005.pth")
    alone = root / "fsdp/train/model_epoch_001.pth"
    rest = {key: value for key, value in fsdp.items() if key != "train__num_gpus"} | {
        "dataset__batch_size": 4
    }
    again = [
        one("fewer", **probed, **STEPS, dataset__batch_size=2),
        one("more", **probed, **STEPS, train__num_gpus=2),
        one("fsdp-resumed", **fsdp, **STEPS),
        one("fsdp-alone", **rest, train__resume_training_checkpoint_path=str(alone)),
    ]
    codes, told = train_on_ranks(*again)
    assert codes == [[0] * world for _, world in again], told
    return root


def assert_close(
    one: Path, other: Path, names: tuple[str, ...] = SERIES, rel: float = 2e-4, start: int = 0
) -> None:
    for name in names:
        first, second = curve(one, name), curve(other, name)
        first = {step: value for step, value in first.items() if step > start}
        assert first.keys() == second.keys() and first, name
        for step in first:
            assert float(first[step]) == pytest.approx(float(second[step]), rel=rel), (name, step)


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_fillers_count_neither_in_the_loss_nor_in_the_gradient(jobs: Path, stage: str) -> None:
    """The last step of an epoch holds one image: on two ranks the mean over it must not be halved,
    nor the filler's gradient added."""
    suffix = "" if stage == "pretrain" else "-finetune"
    names = (*SERIES, "knn_acc", "linear_acc") if stage == "pretrain" else (*SERIES, "ACC_all")
    assert_close(jobs / f"single{suffix}", jobs / f"pair{suffix}", names)
    if stage == "pretrain":
        for epoch in range(2):
            assert (
                seen(jobs / "single", 1, epoch)
                == seen(jobs / "pair", 2, epoch)
                == list(range(IMAGES))
            )


def test_stand_ins_for_unreadable_images_count_nowhere(jobs: Path) -> None:
    assert_close(jobs / "single-broken", jobs / "pair-broken")
    assert seen(jobs / "pair-broken", 2, 0) == [index for index in range(15) if index != 3]


@pytest.mark.parametrize(
    "name, before, world", [("fewer", ("pair", 2), 1), ("more", ("single", 1), 2)]
)
def test_another_number_of_ranks_goes_on_with_the_images_that_are_left(
    jobs: Path, name: str, before: tuple[str, int], world: int
) -> None:
    """Killed after two steps of the first epoch, resumed on more or fewer ranks: no image is missed
    and none is trained on twice."""
    done = seen(jobs / before[0], before[1], 0, batches=2)
    assert len(done) == 8
    assert sorted([*done, *seen(jobs / name, world, 0)]) == list(range(IMAGES))
    assert seen(jobs / name, world, 1) == list(range(IMAGES))
    span = 2 if name == "fewer" else 8
    steps = 2 + -(-5 // span) + -(-IMAGES // span)
    assert sorted(curve(jobs / name)) == list(range(1, steps + 1))
    rates = [float(value) for _, value in sorted(curve(jobs / name, "lr").items())]
    assert rates == sorted(rates, reverse=True), (
        "the schedule goes by what was seen of the data, not by the number of steps"
    )
    assert rates[-1] < 0.3e-3


def test_sharded_weights_give_the_losses_of_replicated_ones(jobs: Path) -> None:
    assert_close(jobs / "ddp", jobs / "fsdp", (*SERIES, "knn_acc", "linear_acc"), rel=1e-4)
    assert (jobs / "fsdp/train/pictures/reconstruction_epoch_002.png").exists()
    assert (
        read(jobs / "fsdp", "train/derived.json")["parameters"]
        == read(jobs / "ddp", "train/derived.json")["parameters"]
    )


def test_sharded_weights_train_in_bfloat16_too(jobs: Path) -> None:
    assert_close(jobs / "bf16", jobs / "fsdp-bf16", ("train_loss_step", "val_loss"), rel=2e-3)


def test_a_sharded_run_leaves_a_checkpoint_like_any_other(jobs: Path) -> None:
    ours, plain = (
        checkpoint.read(jobs / name / "train/model_epoch_002.pth") for name in ("fsdp", "ddp")
    )
    assert ours.keys() == plain.keys()
    for name in ("state_dict", "live_state_dict"):
        assert {key: tuple(value.shape) for key, value in ours[name].items()} == {
            k: tuple(v.shape) for k, v in plain[name].items()
        }
        assert all(type(value) is torch.Tensor for value in ours[name].values())
        for key, value in ours[name].items():
            assert torch.allclose(value, plain[name][key], rtol=1e-3, atol=2e-4), key
    mine, theirs = ours["optimizer_states"][0], plain["optimizer_states"][0]
    assert [group["params"] for group in mine["param_groups"]] == [
        group["params"] for group in theirs["param_groups"]
    ]
    assert {key: entry["exp_avg"].shape for key, entry in mine["state"].items()} == {
        k: e["exp_avg"].shape for k, e in theirs["state"].items()
    }
    model, meta = checkpoint.load_model(jobs / "fsdp/train/model_epoch_002.pth")
    assert meta.arch == "vit_tiny_patch16" and not any(
        p.requires_grad and p.is_meta for p in model.parameters()
    )


def test_a_sharded_run_resumes_bit_for_bit_and_on_a_single_process(jobs: Path) -> None:
    for name in (*SERIES, "knn_acc"):
        assert curve(jobs / "fsdp", name) == curve(jobs / "fsdp-resumed", name), name
    whole, resumed = (
        checkpoint.read(jobs / name / "train/model_epoch_002.pth")
        for name in ("fsdp", "fsdp-resumed")
    )
    for name in ("state_dict", "live_state_dict"):
        assert all(torch.equal(whole[name][key], resumed[name][key]) for key in whole[name])
    assert_close(jobs / "fsdp", jobs / "fsdp-alone", SERIES, start=8)


@pytest.mark.parametrize("name", ["bad", "bad-fsdp"])
def test_ranks_stop_together_at_a_step_that_is_not_finite_and_keep_the_weights_before_it(
    jobs: Path, name: str
) -> None:
    error = read(jobs / name, "error.json")
    assert (
        error["code"] == "numeric"
        and "at step 1" in error["message"]
        and "nonfinite_step_00001_rank_" in error["hint"]
    )
    capsules = {
        path.name[-5]: checkpoint.read(path)
        for path in (jobs / name / "train").glob("nonfinite_step_00001_rank_*.pth")
    }
    assert "0" in capsules
    plain = checkpoint.read(jobs / "pair/train/model_epoch_000.pth")["state_dict"]
    weights = capsules["0"]["state_dict"]
    assert {key: value.shape for key, value in weights.items()} == {
        key: value.shape for key, value in plain.items()
    }
    assert all(value.isfinite().all() for value in weights.values())
    for rank, capsule in capsules.items():
        assert (
            capsule["seed_key"][3] == int(rank)
            and len(capsule["batch"]["index"]) == 2
            and capsule["step"] == 1
        )
    assert not list((jobs / name / "train").glob("model_epoch_*"))


def test_two_ranks_learn_from_a_teacher_what_one_learns(tmp_path: Path) -> None:
    data = digits_folder(tmp_path / "digits", per_class=4)
    changes = {**SMALL, "train__num_epochs": 1}
    changes |= {"train__teacher__checkpoint": str(teacher_file(tmp_path / "teacher.pth"))}
    one = spec(data, tmp_path / "one", **changes)
    two = spec(data, tmp_path / "two", **changes, train__num_gpus=2, dataset__batch_size=2)
    codes, told = train_on_ranks((one, 1), (two, 2))
    assert codes == [[0], [0, 0]], told
    assert values(tmp_path / "two") == pytest.approx(values(tmp_path / "one"), rel=1e-4)
