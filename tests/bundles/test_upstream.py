"""A bundle in upstream's dialect, planned and run: nothing of it is made up, left out or opened."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mae_sdk import Skill, answers
from mae_sdk.automl.objectives import EPOCH, WHOLE, course
from mae_sdk.jobs.checkpoint_names import Judged, choose_by_name
from mae_skill.errors import DataError, MaeError, SpecError, UsageError

from tests.support.upstream_bundle.make import write_bundle, write_data

Plan = Callable[..., Any]


@pytest.fixture
def skill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Skill:
    monkeypatch.setenv("MAE_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("MAE_RESULTS_ROOT", str(tmp_path / "results"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6")
    write_data(tmp_path / "data")
    return Skill(write_bundle(tmp_path / "bundle"))


@pytest.fixture
def plan(skill: Skill, tmp_path: Path) -> Plan:
    def made(action: str = "train", **options: Any) -> Any:
        if action == "train":
            options.setdefault("train_datasets", str(tmp_path / "data"))
        options.setdefault("automl_policy", "off")
        return skill.plan(action, **options)

    return made


def fields(error: MaeError) -> dict[str, MaeError]:
    return {str(one.field): one for one in getattr(error, "problems", None) or [error]}


def test_every_kind_of_row_fills_its_field(plan: Plan, tmp_path: Path) -> None:
    data = str(tmp_path / "data")
    made = plan(
        eval_dataset=[data],
        sources={"calibration_dataset": data},
        spec_overrides={"train.num_epochs": 3},
    )
    dataset = made.spec["dataset"]
    assert dataset["sources"] == [
        {
            "image_dir": f"{data}/images.tar.gz",
            "list_file": f"{data}/lists/all.txt",
            "weight": 1.0,
        }
    ]
    assert dataset["folders"] == [f"{data}/images.tar.gz"]
    assert dataset["val"] == [
        {
            "image_dir": f"{data}/images.tar.gz",
            "caption": None,
            "suffix": ".txt",
            "boxes": f"{data}/boxes.txt",
            "unpacked": f"{data}/images.tar.gz",
        }
    ]
    assert dataset["annotations"] == f"{data}/annotations.jsonl"
    assert dataset["calibration"] == f"{data}/calibration.npy"
    assert set(dataset) == {
        *("sources", "folders", "labels", "val", "calibration", "annotations", "name")
    }
    kinds = {key: seen["data_kind"] for key, seen in made.sources.items()}
    assert kinds["dataset.sources[0].image_dir"] == "archive"
    assert kinds["dataset.sources[0].list_file"] == "file"
    assert all("images" not in seen for seen in made.sources.values())


def test_constants_defaults_and_results_are_the_bundles(plan: Plan) -> None:
    made = plan()
    assert made.spec["dataset"]["name"] == "LampDataset"
    assert made.spec["train"]["mode"] == "warm"
    assert made.spec["results_dir"] == made.job_dir
    assert made.launch["command"][-1] == f"{made.job_dir}/spec.json"
    assert made.provenance["train.mode"].kind.value == "template"


def test_bounds_that_the_bundles_own_values_break_are_hints_said_once(plan: Plan) -> None:
    made = plan(spec_overrides={"train.num_epochs": 1})
    said = [notice for notice in made.notices if "are hints" in notice]
    assert len(said) == 1
    assert "train.num_epochs (minimum)" in said[0]
    with pytest.raises(SpecError) as caught:
        plan(spec_overrides={"train.num_epochs": 11, "train.mode": "hot", "train.lr": None})
    assert set(fields(caught.value)) == {"train.num_epochs", "train.mode"}


def test_what_nothing_reads_is_named(plan: Plan) -> None:
    (said,) = [notice for notice in plan().notices if "not read" in notice]
    assert "surprise" in said
    assert "schema: odd_word" in said
    assert "notes" not in said
    assert "mapping" not in said


def test_mandatory_data_is_asked_for_by_its_option(plan: Plan, tmp_path: Path) -> None:
    with pytest.raises(MaeError) as caught:
        plan(train_datasets=None)
    said = str(caught.value)
    assert "dataset.folders in the spec, or --train-datasets URI" in said
    # One word for a field, though its template has ??? too.
    assert caught.value.message.count("dataset.annotations") == 1
    assert not any(name in said for name in ("dataset.val", "calibration", "dataset.labels"))


def test_a_missing_file_of_a_source_is_named(plan: Plan, tmp_path: Path) -> None:
    (tmp_path / "data" / "annotations.jsonl").unlink()
    with pytest.raises(DataError, match="no data was found") as caught:
        plan()
    assert str(caught.value.expected).endswith("data/annotations.jsonl")


def test_an_index_beyond_a_list_is_refused_by_its_key(plan: Plan) -> None:
    with pytest.raises(SpecError) as caught:
        plan(spec_overrides={"dataset.sources[2].weight": 1})
    assert "dataset.sources[2]" in fields(caught.value)
    assert (
        plan(spec_overrides={"dataset.sources[0].weight": 2}).spec["dataset"]["sources"][0][
            "weight"
        ]
        == 2
    )


def test_a_runner_that_starts_its_own_workers_gets_every_device(plan: Plan, skill: Skill) -> None:
    asked = {"train.num_gpus": 2, "train.gpu_ids": [0, 1]}
    made = plan(spec_overrides=asked)
    assert (made.launch["processes"], made.launch["device_count"]) == (1, 2)
    job = skill.create_job(made).wait(30)
    assert job.logs().startswith("ranks [] devices 4,5 [0, 1]")
    with pytest.raises(SpecError, match="more devices"):
        plan(spec_overrides={"train.num_gpus": 4})


def test_the_runners_own_status_and_checkpoints_are_read(skill: Skill, plan: Plan) -> None:
    job = skill.create_job(plan(spec_overrides={"train.num_epochs": 3})).wait(30)
    assert job.metrics()["val_acc"] == pytest.approx(0.3)
    assert [row["epoch"] for row in job.history()] == [0, 1, 2]
    assert job.status()["progress"]["status"] == "SUCCESS"
    for policy in ("best", "latest"):
        assert job.best_checkpoint(policy).name == "model_epoch_002_step_00020.pth"
    assert job.best_checkpoint("epoch:1").name == "model_epoch_001_step_00010.pth"

    evaluated = skill.create_job("evaluate", parent_job_id=job.id).wait(30)
    assert evaluated.metrics() == {"val_acc": 2.25}
    exported = skill.create_job("export", parent_job_id=job.id).wait(30)
    assert (exported.folder / "export" / "model.onnx").read_text() == "2"


def test_an_archive_inside_a_mapping_is_unpacked_where_its_row_says_so(
    skill: Skill, plan: Plan, tmp_path: Path
) -> None:
    made = plan(eval_dataset=str(tmp_path / "data"), spec_overrides={"train.num_epochs": 1})
    job = skill.create_job(made).wait(30)
    (given,) = json.loads((job.folder / "spec.json").read_text())["dataset"]["val"]
    assert Path(given["unpacked"], "inside", "labels.json").is_file()
    assert given["image_dir"] == f"{tmp_path}/data/images.tar.gz"


def test_the_best_checkpoint_is_that_of_the_epoch_which_the_bundles_metric_says(
    skill: Skill, plan: Plan
) -> None:
    asked = {"train.num_epochs": 4, "train.peak": 1}
    job = skill.create_job(plan(spec_overrides=asked)).wait(30)
    assert job.best_checkpoint().name == "model_epoch_001_step_00010.pth"
    assert job.best_checkpoint("latest").name == "model_epoch_003_step_00030.pth"

    found = job.figures()
    assert found["best"] == {
        "val_acc": {"value": pytest.approx(0.2), "epoch": 1, "step": None, "direction": "maximize"}
    }
    assert found["best_checkpoint"]["file"].endswith("model_epoch_001_step_00010.pth")
    (row,) = answers.jobs(skill.jobs(), limit=9)["jobs"]
    assert (row["metric"], row["best"]) == ("val_acc", pytest.approx(0.2))

    made = skill.plan("evaluate", parent_job_id=job.id)
    assert made.spec["evaluate"]["checkpoint"].endswith("model_epoch_001_step_00010.pth")
    assert "best val_acc (highest), epoch 1, val_acc 0.2" in str(made.inferred)


def test_a_study_judges_its_trials_checkpoints_by_its_own_metric(plan: Plan) -> None:
    assert plan().launch["best"] == {"metric": "val_acc", "direction": "maximize"}
    made = plan(automl_policy="on", automl={"metric": "loss:minimize"})
    assert made.launch["best"] == {"metric": "loss", "direction": "minimize"}


@pytest.mark.parametrize(
    ("names", "direction", "chosen"),
    [
        (["model_epoch_000.pth", "model_epoch_001.pth", "model_epoch_002.pth"], "maximize", 1),
        (["model_epoch_000.pth", "model_epoch_001.pth", "model_epoch_002.pth"], "minimize", 0),
        # Counted from 1 in the names, from 0 in the status.
        (["model_epoch_001.pth", "model_epoch_002.pth", "model_epoch_003.pth"], "maximize", 2),
        # The best epoch was not kept: the best that was, unless the runner names one itself.
        (["model_epoch_000.pth", "model_epoch_002.pth"], "maximize", 2),
        (["model_epoch_000.pth", "model_epoch_002.pth", "model_best.pth"], "maximize", "best"),
        (["model_epoch_001.pth", "model_epoch_002.pth", "model_best_002.pth"], "maximize", 1),
    ],
)
def test_values_of_epochs_and_names_of_checkpoints_are_brought_together(
    names: list[str], direction: str, chosen: int | str
) -> None:
    judged = Judged("score", direction, {0: 0.1, 1: 0.9, 2: 0.5})
    name, reason = choose_by_name(names, "best", "job", judged)
    at = chosen if isinstance(chosen, str) else f"epoch_{chosen:03d}"
    assert name == f"model_{at}.pth"
    if names == ["model_epoch_000.pth", "model_epoch_002.pth"]:
        assert reason.endswith("score 0.5; epoch 1 (0.9) has no checkpoint")


def test_a_value_of_the_whole_run_is_of_no_epoch() -> None:
    whole = [{"kpi": {"cost": 0.2}}, {"epoch": 2, "kpi": {"other": 1.0}}, {"kpi": {"cost": 0.1}}]
    assert course(whole, "cost") == (WHOLE, [(0, 0.1)])
    by_epoch = [*whole, {"epoch": 1, "kpi": {"cost": 0.3}}]
    assert course(by_epoch, "cost") == (EPOCH, [(1, 0.3)])


def test_a_failure_that_the_runner_reports_is_one_though_it_exits_with_0(
    skill: Skill, plan: Plan
) -> None:
    job = skill.create_job(plan(spec_overrides={"train.fault": "says failure"}))
    with pytest.raises(MaeError, match="the loss is no number"):
        job.wait(30)
    assert job.state == "ERROR"


def test_a_resumed_job_goes_on_from_the_newest_checkpoint(skill: Skill, plan: Plan) -> None:
    asked = {"train.fault": "epoch1", "train.num_epochs": 3}
    job = skill.create_job(plan(spec_overrides=asked))
    with pytest.raises(MaeError):
        job.wait(30)
    job.resume().wait(30)
    assert [row["epoch"] for row in job.history()] == [0, 1, 2]
    given = json.loads((job.folder / "spec.json").read_text())["train"]
    assert given["resume"].endswith("model_epoch_000_step_00000.pth")
    assert given["pretrained"] == ""  # as the bundle writes that there is none


def test_without_a_stated_metric_the_default_policy_runs_plain_and_says_so(
    skill: Skill, plan: Plan
) -> None:
    info = Path(skill.bundle.root) / "references" / "skill_info.yaml"
    info.write_text(info.read_text().replace("metric: val_acc", "note: none"))
    bare = Skill(skill.path)
    data = str(Path(skill.bundle.root).parent / "data")
    made = bare.plan("train", train_datasets=data)
    assert made.study is None
    assert "states no metric" in str(made.policy.report)
    assert bare.plan("train", train_datasets=data, automl={"metric": "val_acc:maximize"}).study
    with pytest.raises(MaeError, match="no metric"):
        bare.plan("train", train_datasets=data, automl_policy="on")


def test_a_source_that_the_action_does_not_read_is_refused(plan: Plan) -> None:
    with pytest.raises(UsageError, match="does not read this source") as caught:
        plan(sources={"other_dataset": "/tmp"})
    assert caught.value.field == "other_dataset"
