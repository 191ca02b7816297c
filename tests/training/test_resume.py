"""A run that was left and found again follows the curve of one that never stopped, bit for bit."""

from __future__ import annotations

import os
import re
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from mae_runners.models import checkpoint
from mae_runners.training import loop, position
from mae_sdk import Skill
from mae_skill.errors import MaeError
from mae_skill.spec import ExperimentSpec
from PIL import Image

from tests.support.training import curve, digits_folder, read, spec, start, status_lines, train

SERIES = ("train_loss_step", "lr", "grad_norm", "train_loss", "val_loss")
EVERYTHING = {
    "train__num_epochs": 3,
    "dataset__batch_size": 2,
    "train__accum_grad_batches": 2,
    "train__ema_decay": 0.9,
    "train__clip_grad_norm": 1.0,
    "train__checkpoint_interval": 2,
    "train__checkpoint_interval_unit": "step",
    "train__optim__lr": 1e-3,
    "train__optim__lr_scheduler": "cosine",
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return digits_folder(tmp_path_factory.mktemp("digits"), per_class=5)


class Killed(BaseException):
    """Ends a run where it stands, as a kill would: nothing catches it and nothing is saved on the
    way out."""


def stop_after(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    whole = loop.TrainLoop._train_step

    def counted(self: Any, *args: Any) -> None:
        whole(self, *args)
        if self.position.step == step:
            self.trackers.flush()
            raise Killed

    monkeypatch.setattr(loop.TrainLoop, "_train_step", counted)


def run_killed(made: dict[str, Any], step: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, step)
        with pytest.raises(Killed):
            train(made)


def weights(results: Path) -> dict[str, torch.Tensor]:
    newest = max(
        (results / "train").glob("model_epoch_*.pth"),
        key=lambda path: (path.name[:15], "step" not in path.name, path.name),
    )
    data = checkpoint.read(newest)
    return data["state_dict"] | {
        f"live.{name}": value for name, value in data.get("live_state_dict", {}).items()
    }


def assert_same_run(one: Path, other: Path) -> None:
    for name in SERIES:
        assert curve(one, name) == curve(other, name), name
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def changes_of(stage: str, data: Path) -> dict[str, Any]:
    """15 images, 8 micro-batches and 4 steps per epoch, with everything that draws at random."""
    changes = {**EVERYTHING, "dataset__val_data_sources": str(data)}
    if stage == "finetune":
        changes |= {"model__drop_path_rate": 0.2, "dataset__augmentation__re_prob": 0.5}
    return changes


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a run of a stage that never stopped."""
    root = tmp_path_factory.mktemp("whole")

    def run(stage: str) -> Path:
        if not (root / stage).exists():
            assert train(spec(data, root / stage, stage, **changes_of(stage, data))) == 0
        return root / stage

    return run


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
@pytest.mark.parametrize("step", [1, 3, 4, 5, 9])
def test_a_run_killed_after_any_step_continues_bit_for_bit(
    data: Path, whole: Callable[[str], Path], tmp_path: Path, stage: str, step: int
) -> None:
    """The steps lie before the first checkpoint, inside epochs and at an epoch's end."""
    made = spec(data, tmp_path / "parts", stage, **changes_of(stage, data))
    run_killed(made, step)
    assert train(made) == 0
    assert_same_run(whole(stage), tmp_path / "parts")
    if step > 1:  # the first checkpoint is that of step 2
        assert_true_progress(status_lines(tmp_path / "parts"))


def assert_true_progress(lines: list[dict[str, Any]]) -> None:
    """Where a run goes on, its epochs that are done, and times of whole epochs."""
    (place,) = [n for n, line in enumerate(lines) if line["message"].startswith("goes on at")]
    on, first = lines[place], next(line for line in lines[place + 1 :] if "kpi" in line)
    assert on.get("epoch", -1) + 1 == first["epoch"] == on["step"] // 4
    assert on["max_epoch"] == first["max_epoch"]
    assert first["time_per_epoch"] == pytest.approx(4 * first["time_per_step"], abs=1e-3)
    left = first["max_epoch"] - first["epoch"] - 1
    assert first["eta"] == pytest.approx(left * first["time_per_epoch"], abs=0.06)


@pytest.mark.parametrize("arch", ["convnextv2_atto", "hiera_tiny_224"])
def test_the_other_families_continue_bit_for_bit_too(data: Path, tmp_path: Path, arch: str) -> None:
    changes = {
        "train__num_epochs": 1,
        "train__checkpoint_interval": 2,
        "train__checkpoint_interval_unit": "step",
    }
    stage = "pretrain" if arch.startswith("conv") else "finetune"
    assert train(spec(data, tmp_path / "whole", stage, arch, **changes)) == 0
    made = spec(data, tmp_path / "parts", stage, arch, **changes)
    run_killed(made, 3)
    assert train(made) == 0
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_a_truncated_newest_checkpoint_gives_way_to_the_one_before_and_says_so(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(spec(data, tmp_path / "whole", **EVERYTHING)) == 0
    made = spec(data, tmp_path / "parts", **EVERYTHING)
    run_killed(made, 7)
    newest = tmp_path / "parts/train/model_epoch_001_step_00006.pth"
    newest.write_bytes(newest.read_bytes()[:-1000])
    capsys.readouterr()
    assert train(made) == 0
    told = capsys.readouterr().err
    assert re.search(
        r"warning: model_epoch_001_step_00006\.pth cannot be read "
        r".*taking the checkpoint before it",
        told,
    )
    assert "resuming from model_epoch_000.pth" in told
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_when_no_checkpoint_can_be_read_the_run_fails_and_does_not_start_over(
    data: Path, tmp_path: Path
) -> None:
    made = spec(data, tmp_path / "job", **EVERYTHING)
    run_killed(made, 3)
    only = tmp_path / "job/train/model_epoch_000_step_00002.pth"
    only.write_bytes(b"not a checkpoint")
    assert train(made) == 4
    assert read(tmp_path / "job", "error.json")["code"] == "checkpoint"


def test_the_number_of_workers_does_not_change_the_curve_even_between_attempts(
    data: Path, tmp_path: Path
) -> None:
    assert train(spec(data, tmp_path / "none", train__num_epochs=2)) == 0
    assert (
        train(spec(data, tmp_path / "two", train__num_epochs=1, dataset__num_workers_per_gpu=2))
        == 0
    )
    assert (
        train(spec(data, tmp_path / "two", train__num_epochs=2, dataset__num_workers_per_gpu=1))
        == 0
    )
    assert curve(tmp_path / "none") == curve(tmp_path / "two")


def test_a_finished_run_trained_again_does_nothing_and_a_longer_one_goes_on(
    data: Path, tmp_path: Path
) -> None:
    assert train(spec(data, tmp_path / "whole", train__num_epochs=3)) == 0
    made = spec(data, tmp_path / "job", train__num_epochs=2)
    assert train(made) == 0
    before = curve(tmp_path / "job")
    assert train(made) == 0
    assert curve(tmp_path / "job") == before
    assert train(spec(data, tmp_path / "job", train__num_epochs=3)) == 0
    assert curve(tmp_path / "job") == curve(tmp_path / "whole")


def test_a_folder_with_another_run_is_refused_and_left_alone(data: Path, tmp_path: Path) -> None:
    assert train(spec(data, tmp_path / "job", train__num_epochs=1)) == 0
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "job/train").glob("*.pth")}
    assert (
        train(spec(data, tmp_path / "job", train__num_epochs=1, train__optim__weight_decay=0.2))
        == 2
    )
    error = read(tmp_path / "job", "error.json")
    assert error["field"] == "train.optim.weight_decay" and "0.05" in str(error["got"])
    assert {
        path: path.stat().st_mtime_ns for path in (tmp_path / "job/train").glob("*.pth")
    } == before


def test_a_named_checkpoint_continues_in_another_folder_under_a_changed_spec(
    data: Path, tmp_path: Path
) -> None:
    assert train(spec(data, tmp_path / "first", train__num_epochs=1)) == 0
    named = str(tmp_path / "first/train/model_epoch_000.pth")
    made = spec(
        data,
        tmp_path / "job",
        train__num_epochs=2,
        train__optim__lr=1e-3,
        train__resume_training_checkpoint_path=named,
    )
    assert train(made) == 0
    assert min(curve(tmp_path / "job")) == 5
    assert {float(value) for value in curve(tmp_path / "job", "lr").values()} == {1e-3}


@pytest.mark.parametrize(
    "changed",
    [
        {"train__optim__weight_decay": 0.0},
        {"train__optim__weight_decay": 0.3, "train__freeze": ["blocks.0"]},
    ],
    ids=["fewer", "frozen"],
)
def test_a_named_checkpoint_goes_on_under_the_optimizer_of_the_new_spec(
    data: Path, tmp_path: Path, changed: dict[str, Any]
) -> None:
    assert train(spec(data, tmp_path / "first", train__num_epochs=1)) == 0
    named = tmp_path / "first/train/model_epoch_000.pth"
    changed = {**changed, "train__optim__momentum": 0.8, "train__optim__beta2": 0.9}
    made = spec(
        data,
        tmp_path / "job",
        train__num_epochs=2,
        train__resume_training_checkpoint_path=str(named),
        **changed,
    )
    assert train(made) == 0
    before, after = (
        checkpoint.read(path) for path in (named, tmp_path / "job/train/model_epoch_001.pth")
    )
    moments = [
        dict(zip(data["optimizer_names"], range(10**6), strict=False)) for data in (before, after)
    ]
    groups = after["optimizer_states"][0]["param_groups"]
    assert max(group["weight_decay"] for group in groups) == changed["train__optim__weight_decay"]
    assert {tuple(group["betas"]) for group in groups} == {(0.8, 0.9)}
    assert any(name.startswith("encoder.blocks.0.") for name in moments[0])
    assert any(name.startswith("encoder.blocks.0.") for name in moments[1]) == (
        "train__freeze" not in changed
    )
    steps = [
        {
            name: float(data["optimizer_states"][0]["state"][number]["step"])
            for name, number in table.items()
        }
        for data, table in zip((before, after), moments, strict=True)
    ]
    assert {name: steps[0][name] for name in moments[1]} == dict.fromkeys(moments[1], 4.0)
    assert steps[1] == dict.fromkeys(moments[1], 8.0)


@pytest.mark.parametrize("in_a_job", [False, True], ids=["by the plan", "by the run"])
@pytest.mark.parametrize("stage", ["finetune", "pretrain"])
def test_a_named_checkpoint_of_other_classes_is_refused_and_other_settings_are_named(
    stage: str, in_a_job: bool, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert train(spec(data, tmp_path / "first", stage, train__num_epochs=1)) == 0
    if in_a_job:  # whose spec was judged with its data before, perhaps on another machine
        monkeypatch.setenv("MAE_JOB_DIR", str(tmp_path / "job"))
    more: dict[str, Any] = {
        "train__resume_training_checkpoint_path": str(tmp_path / "first/train/model_epoch_000.pth"),
        "train__num_epochs": 2,
    }
    made = spec(
        data, tmp_path / "job", stage, **more, train__seed=7, train__optim__weight_decay=0.3
    )
    assert train(made) == 0
    said = [
        text
        for text in read(tmp_path / "job", "train/result.json")["warnings"]
        if "goes on" in text
    ]
    assert all("train.optim.weight_decay 0.05 → 0.3" in text for text in said)
    assert len(said) == 1 and "train.seed" in said[0] and "resume_training" in said[0]

    names = sorted(path.name for path in data.iterdir())
    order = [names[1], names[0], *names[2:]]
    made = spec(data, tmp_path / "other", stage, **more, dataset__classes=order)
    if in_a_job:
        monkeypatch.setenv("MAE_JOB_DIR", str(tmp_path / "other"))
    if stage == "pretrain":  # which has no outputs of classes
        assert train(made) == 0
        return
    assert train(made) == 4
    error = read(tmp_path / "other", "error.json")
    assert error["field"] == "train.resume_training_checkpoint_path" and error["got"] == order
    assert error["expected"] == ", ".join(names) and "in another order" in error["message"]


def test_a_named_checkpoint_that_leaves_nothing_to_train_is_refused(
    data: Path, tmp_path: Path
) -> None:
    assert train(spec(data, tmp_path / "first", train__num_epochs=2)) == 0
    named = str(tmp_path / "first/train/model_epoch_001.pth")
    more = {"train__resume_training_checkpoint_path": named}
    assert train(spec(data, tmp_path / "job", train__num_epochs=2, **more)) == 2
    error = read(tmp_path / "job", "error.json")
    assert (error["field"], error["expected"]) == ("train.num_epochs", "more than 2 epochs in all")
    assert train(spec(data, tmp_path / "first", train__num_epochs=2, **more)) == 0  # is complete


def test_a_named_checkpoint_of_another_shape_is_refused(data: Path, tmp_path: Path) -> None:
    assert train(spec(data, tmp_path / "first", train__num_epochs=1)) == 0
    named = str(tmp_path / "first/train/model_epoch_000.pth")
    assert (
        train(
            spec(
                data,
                tmp_path / "job",
                train__num_epochs=2,
                model__depth=3,
                train__resume_training_checkpoint_path=named,
            )
        )
        == 4
    )
    error = read(tmp_path / "job", "error.json")
    assert error["field"] == "model.depth" and "pretrained_model_path" in error["hint"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("dataset.augmentation.input_size", [32, 128]),  # as many patches, in another grid
        ("dataset.channels", 1),
        ("model.num_heads", 4),  # of equal shapes, and another function
    ],
)
def test_a_plan_refuses_to_go_on_with_another_model_than_the_checkpoints(
    field: str, value: Any, data: Path, tmp_path: Path
) -> None:
    assert train(spec(data, tmp_path / "first", train__num_epochs=1)) == 0
    named = str(tmp_path / "first/train/model_epoch_000.pth")
    more: dict[str, Any] = {"train__resume_training_checkpoint_path": named, field: value}
    made = spec(data, tmp_path / "job", train__num_epochs=2, **more)
    with pytest.raises(MaeError) as caught:
        Skill().plan("train", spec=made, automl_policy="off")
    assert caught.value.field == field and "train.pretrained_model_path" in str(caught.value.hint)


def test_pretrained_weights_beside_a_checkpoint_to_go_on_from_are_said_to_do_nothing(
    data: Path, tmp_path: Path
) -> None:
    assert train(spec(data, tmp_path / "first", train__num_epochs=1)) == 0
    named = str(tmp_path / "first/train/model_epoch_000.pth")
    both = {"resume_training_checkpoint_path": named, "pretrained_model_path": named}
    more = {f"train__{key}": value for key, value in both.items()}
    made = Skill().plan(
        "train",
        spec=spec(data, tmp_path / "job", train__num_epochs=2, **more),
        automl_policy="off",
    )
    assert "train.pretrained_model_path: has no effect" in "\n".join(map(str, made.warnings))


def test_layer_wise_rates_survive_a_resume_that_no_longer_names_the_weights(
    data: Path, tmp_path: Path
) -> None:
    assert train(spec(data, tmp_path / "pre", train__num_epochs=1)) == 0
    path = str(tmp_path / "pre/train/model_epoch_000.pth")
    whole = spec(
        data, tmp_path / "whole", "finetune", train__pretrained_model_path=path, **EVERYTHING
    )
    assert train(whole) == 0
    run_killed(
        spec(data, tmp_path / "parts", "finetune", train__pretrained_model_path=path, **EVERYTHING),
        5,
    )
    assert train(spec(data, tmp_path / "parts", "finetune", **EVERYTHING)) == 0
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_a_killed_process_continues_bit_for_bit(data: Path, tmp_path: Path) -> None:
    """A real process, kill -9 in the middle of an epoch; then the same command again."""
    changes = {**EVERYTHING, "train__num_epochs": 12, "dataset__val_data_sources": str(data)}
    made = spec(data, tmp_path / "parts", **changes)
    process = start(made)
    try:
        deadline = time.monotonic() + 120
        while (
            not list((tmp_path / "parts/train").glob("model_epoch_*_step_*.pth"))
            and time.monotonic() < deadline
        ):
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    finally:
        process.kill()
    reached = len(list((tmp_path / "parts/train").glob("model_epoch_*.pth")))
    assert 0 < reached < 36, "the run must have been killed on its way"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the process: another number of threads is other arithmetic
    try:
        assert train(spec(data, tmp_path / "whole", **changes)) == 0
        assert train(made) == 0
    finally:
        torch.set_num_threads(threads)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_other_training_images_in_the_same_folder_are_refused_wherever_they_lie(
    data: Path, tmp_path: Path
) -> None:
    made = spec(data, tmp_path / "job", train__num_epochs=1)
    assert train(made) == 0
    moved = tmp_path / "moved"
    shutil.copytree(data, moved)
    assert train(spec(moved, tmp_path / "job", train__num_epochs=2)) == 0, (
        "the same images in another place"
    )
    saved = {path.name for path in (tmp_path / "job/train").glob("*.pth")}
    victim = next(moved.rglob("*.png"))
    victim.rename(victim.with_name("another.png"))
    assert train(spec(moved, tmp_path / "job", train__num_epochs=3)) == 2
    error = read(tmp_path / "job", "error.json")
    assert error["field"] == "dataset.train_data_sources" and "other names" in error["got"]
    moved_one = next(moved.rglob("another.png"))
    moved_one.rename(victim)
    Image.new("RGB", (32, 32), "red").save(victim)
    assert train(spec(moved, tmp_path / "job", train__num_epochs=3)) == 2
    assert read(tmp_path / "job", "error.json")["got"] == "15 images with other content"
    victim.unlink()
    assert train(spec(moved, tmp_path / "job", train__num_epochs=3)) == 2
    assert read(tmp_path / "job", "error.json")["got"] == "15 images → 14"
    assert {path.name for path in (tmp_path / "job/train").glob("*.pth")} == saved


def test_other_labels_of_the_same_images_are_refused_and_other_validation_images_are_named(
    data: Path, tmp_path: Path
) -> None:
    table = tmp_path / "labels.csv"
    paths = sorted(path.relative_to(data) for path in data.rglob("*.png"))

    def label(turn: int) -> None:
        rows = [f"{path},{'abc'[(i + turn) % 3]}" for i, path in enumerate(paths)]
        table.write_text("path,label\n" + "\n".join(rows))

    def made(epochs: int, judged_by: Path) -> dict[str, Any]:
        tables = {"dataset__labels__train": str(table), "dataset__val_data_sources": str(judged_by)}
        tables["dataset__labels__val"] = str(table)
        return spec(data, tmp_path / "job", "finetune", **tables, train__num_epochs=epochs)

    label(0)
    assert train(made(1, data)) == 0
    fewer = tmp_path / "fewer"
    shutil.copytree(data, fewer)
    next(fewer.rglob("*.png")).unlink()
    assert train(made(2, fewer)) == 0
    warned = read(tmp_path / "job", "train/result.json")["warnings"]
    assert any("the validation images are not those of the checkpoint" in text for text in warned)
    label(1)
    newest = tmp_path / "job/train/model_epoch_001.pth"
    own = f"train.resume_training_checkpoint_path={newest}"  # as `mae jobs resume` points it
    for how in ([], [own]):
        (tmp_path / "job/error.json").unlink(missing_ok=True)
        assert train(made(3, fewer), *how) == 2
        error = read(tmp_path / "job", "error.json")
        assert error["field"] == "dataset.labels.train" and "other labels" in error["got"]
        assert "train.resume_training_checkpoint_path=FILE" in error["hint"]
    other = {**made(3, fewer), "results_dir": str(tmp_path / "new")}
    assert train(other, own) == 0, "a new run that names the file goes on with the new labels"
    warned = read(tmp_path / "new", "train/result.json")["warnings"]
    assert any("15 images with other labels" in text for text in warned)
    assert any("the validation labels of the images are not those" in text for text in warned)


def test_a_named_checkpoint_goes_on_with_other_images_and_its_epoch_starts_over(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = digits_folder(tmp_path / "other", per_class=6)
    steps = {"train__checkpoint_interval": 1, "train__checkpoint_interval_unit": "step"}
    assert train(spec(data, tmp_path / "first", train__num_epochs=1, **steps)) == 0
    named = str(tmp_path / "first/train/model_epoch_000_step_00002.pth")
    capsys.readouterr()
    assert (
        train(
            spec(
                other,
                tmp_path / "job",
                train__num_epochs=1,
                train__resume_training_checkpoint_path=named,
            )
        )
        == 0
    )
    assert re.search(
        "warning: the training images are not those of the checkpoint .15 images → 18",
        capsys.readouterr().err,
    )
    assert sorted(curve(tmp_path / "job")) == [3, 4, 5, 6, 7], (
        "all 18 images after the two steps before"
    )


def test_pretrained_weights_that_are_gone_do_not_matter_once_there_is_a_checkpoint(
    data: Path, tmp_path: Path
) -> None:
    assert train(spec(data, tmp_path / "pre", train__num_epochs=1)) == 0
    path = tmp_path / "pre/train/model_epoch_000.pth"
    made = spec(
        data,
        tmp_path / "job",
        "finetune",
        train__pretrained_model_path=str(path),
        train__num_epochs=1,
    )
    assert train(made) == 0
    told = read(tmp_path / "job", "train/derived.json")["pretrained"]
    assert told["share"] > 0.9
    path.unlink()
    assert train(made, "train.num_epochs=2") == 0
    assert read(tmp_path / "job", "train/derived.json")["pretrained"] == told
    assert (
        train(spec(data, tmp_path / "new", "finetune", train__pretrained_model_path=str(path))) == 4
    )


IDENTITY = position.identity(ExperimentSpec().model_dump(mode="json"))


@pytest.mark.parametrize("key", IDENTITY)
def test_a_run_from_before_a_field_existed_is_the_same_run_while_the_field_has_its_default(
    key: str,
) -> None:
    before = {name: value for name, value in IDENTITY.items() if name != key}
    assert position.changed_fields(before, IDENTITY) == {}
    assert position.changed_fields(before, {**IDENTITY, key: "new"}) == {
        key: (IDENTITY[key], "new")
    }


def test_a_field_that_no_longer_exists_does_not_keep_a_run_from_resuming() -> None:
    assert position.changed_fields({**IDENTITY, "train.optim.gone": 1}, IDENTITY) == {}


def test_what_may_change_between_attempts_is_said_by_the_fields_themselves() -> None:
    sections = {key.split(".")[0] for key in IDENTITY}
    assert sections == {"model", "dataset", "train"}
    assert {"train.seed", "train.mask_ratio", "dataset.batch_size", "model.arch"} <= set(IDENTITY)
    assert not {key for key in IDENTITY if key.startswith(("train.cudnn.", "train.probe."))}
    assert not {"train.num_epochs", "train.num_gpus", "dataset.train_data_sources"} & set(IDENTITY)


def test_a_checkpoint_without_a_field_that_was_added_later_goes_on_and_keeps_to_its_default(
    data: Path, tmp_path: Path
) -> None:
    assert train(spec(data, tmp_path / "whole", train__num_epochs=2)) == 0
    assert train(spec(data, tmp_path / "job", train__num_epochs=1)) == 0
    path = tmp_path / "job/train/model_epoch_000.pth"
    stored = checkpoint.read(path)
    for key in ("train.clip_grad_norm", "train.optim.layer_decay"):
        del stored["identity"][key]
    checkpoint.save(stored, path, None)
    changed = spec(data, tmp_path / "job", train__num_epochs=2, train__clip_grad_norm=1.0)
    assert train(changed) == 2
    assert read(tmp_path / "job", "error.json")["field"] == "train.clip_grad_norm"
    assert train(spec(data, tmp_path / "job", train__num_epochs=2)) == 0
    assert_same_run(tmp_path / "whole", tmp_path / "job")
