"""A study that could compare nothing is refused when it is planned, not after its first trial."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mae_runners.metrics.classification import ClassificationMetrics
from mae_runners.metrics.multi_label import MultiLabelMetrics
from mae_sdk import Skill
from mae_sdk.automl.objectives import reported
from mae_sdk.automl.options import parse
from mae_sdk.jobs.metrics import study, verdict
from mae_skill.bundle import Bundle
from mae_skill.dotted import set_dotted
from mae_skill.errors import DependencyError, MaeError, SpecError, UsageError

from tests.support.images import write_imagefolder

SMALL = {
    "model.arch": "vit_tiny_patch16",
    "dataset.augmentation.input_size": 32,
    "train.accelerator": "cpu",
}
FINETUNE = {**SMALL, "train.stage": "finetune", "model.num_classes": 3}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_imagefolder(tmp_path_factory.mktemp("data") / "d", classes=3, per_class=6))


def plan(data: str, spec: dict[str, Any] = FINETUNE, **automl: Any) -> Any:
    options = {"automl_policy": "on", "automl": {"max_trials": 2, **automl}}
    return Skill().plan("train", train_datasets=data, spec_overrides=spec, **options)


def refusal(data: str, spec: dict[str, Any] = FINETUNE, **automl: Any) -> tuple[str, str]:
    with pytest.raises(SpecError) as caught:
        plan(data, spec, **automl)
    (problem,) = caught.value.problems
    return str(problem.field), f"{problem.message} | {problem.expected} | {problem.hint}"


@pytest.mark.parametrize(
    ("spec", "metric", "why"),
    [
        (FINETUNE, "foo:maximize", "none of this name"),
        (FINETUNE, "foo", "none of this name"),
        (FINETUNE, "acc:maximize", "did you mean metric=ACC_all or metric=balanced_accuracy?"),
        (FINETUNE, "mIoU", "model.task=segmentation"),
        (FINETUNE, "mAP", "model.multi_label=true"),
        (FINETUNE, "knn_acc", "train.stage=pretrain"),
        (FINETUNE, "ACC_top5", "model.num_classes is more than 5 (here: 3)"),
        (FINETUNE, "ACC_all,rankme", "train.stage=pretrain"),
        (SMALL, "knn_acc", "dataset.probe_train_data_sources is set"),
        (SMALL, "rankme", "dataset.val_data_sources is set"),
        (SMALL, "val_loss", "dataset.val_data_sources is set"),
        (SMALL, "ACC_all", "train.stage=finetune"),
    ],
)
def test_a_metric_that_no_trial_reports_is_refused_with_those_that_they_do(
    data: str, spec: dict[str, Any], metric: str, why: str
) -> None:
    field, said = refusal(data, spec, metric=metric)
    assert field == "automl.metric"
    assert why in said
    assert "train_loss" in said, "what this run reports"


@pytest.mark.parametrize("metric", ["val_loss", "f1_macro", "auroc", "seconds"])
def test_a_metric_of_the_run_is_searched_by_its_name_alone(data: str, metric: str) -> None:
    assert plan(data, metric=metric).study["objectives"][0]["metric"] == metric


@pytest.mark.parametrize(
    ("storage", "why"),
    [
        ("foo://u:hidden@host", "no database of this kind is known"),
        ("postgres://u:hidden@host/db", "postgresql:// is its name here"),
        ("env:STUDY", "no database of this kind is known"),
        ("sqlite:/study.db", "no database of this kind is known"),
        ("sqlite://", "in memory"),
        ("sqlite+aiosqlite:///study.db", "an asynchronous driver"),
        ("mssql+pymssql://u:hidden@host/db", "the driver of this database is not installed"),
        ("{folder}", "this is a folder"),
        ("{folder}/picture.png", "no journal of a study"),
    ],
)
def test_a_storage_that_can_keep_no_study_is_refused_with_those_that_can(
    data: str, storage: str, why: str, tmp_path: Path
) -> None:
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    storage = storage.format(folder=tmp_path)
    with pytest.raises((UsageError, DependencyError)) as caught:
        Skill().plan(
            "train",
            train_datasets=data,
            spec_overrides=FINETUNE,
            automl_policy="on",
            automl={"storage": storage},
            env={"STUDY": "s3://u:hidden@bucket/study"},
        )
    error = caught.value
    assert error.field == "automl.storage" and "postgresql://USER@HOST/DB" in str(error.expected)
    assert why in f"{error.message} | {error.hint}" and "hidden" not in str(error.to_dict())


def test_a_storage_that_can_keep_a_study_is_planned(data: str, tmp_path: Path) -> None:
    (tmp_path / "study.log").write_text('{"op_code": 0}\n')
    for storage in (f"sqlite:///{tmp_path}/s.db", str(tmp_path / "study.log"), "new/study.log"):
        assert plan(data, storage=storage).study["options"]["storage"] == storage


def test_every_figure_of_a_validation_is_a_metric_of_such_runs_and_no_other_is() -> None:
    schema, drawn = Bundle.load().schema("train"), np.random.default_rng(0)
    logits, labels = torch.tensor(drawn.normal(size=(24, 6))), torch.arange(24) % 6
    single = ClassificationMetrics(6, confusion=True)
    single.add(logits, labels)
    several = MultiLabelMetrics(6)
    several.add(logits, torch.nn.functional.one_hot(labels, 6))
    others = {"train_loss", "parameters", "latency_ms", "seconds"}
    others |= {"time_per_epoch", "time_per_step", "peak_memory_mb"}
    for metrics, multi in ((single, False), (several, True)):
        spec: dict[str, Any] = {}
        values = {**schema["default"]["model"], "num_classes": 6, "multi_label": multi}
        set_dotted(spec, "model", values)
        set_dotted(spec, "train.stage", "finetune")
        figures = set(metrics.summary("here")) - {"mean_class_accuracy"}
        assert set(reported(schema, spec, parse({}))) - others == figures


@pytest.mark.parametrize(
    ("automl", "field", "why"),
    [
        ({"parameters": "train.seed"}, "train.seed", "disables AutoML"),
        ({"parameters": "evaluate.batch_size"}, "evaluate.batch_size", "the action evaluate alone"),
        ({"range.inference.top_k": [1, 5]}, "inference.top_k", "the action inference alone"),
        ({"range.dataset.val_fraction": [0.1, 0.4]}, "dataset.val_fraction", "disables AutoML"),
        ({"range.train.optim.lr": {"choices": [1e-3]}}, "train.optim.lr", "hold one value"),
        (
            {"range.train.optim.lr": {"choices": [1e-3, 2e-3], "weights": [1, 0]}},
            "train.optim.lr",
            "hold one value",
        ),
        ({"range.train.optim.lr": {"choices": [1e-3, 1e-3]}}, "train.optim.lr", "named twice"),
        ({"range.train.optim.lr": {"choices": [None, 1e-3]}}, "train.optim.lr", "null is no value"),
        (
            {"range.train.optim.warmup_epochs": {"choices": [0.5, 2]}},
            "train.optim.warmup_epochs",
            "not a whole number",
        ),
        (
            {"range.train.loss": ["focal", "dice"], "metric": "ACC_all"},
            "train.loss",
            "'dice' is refused: the Dice loss is for segmentation alone",
        ),
        ({"min_epochs": 5, "max_epochs": 3}, "automl.min_epochs", "above max_epochs=3"),
        (
            {"range.train.optim.warmup_epochs": [3, 9], "max_epochs": 2},
            "train.optim.warmup_epochs",
            "no value of the range is < train.num_epochs=2",
        ),
        (
            {"range.train.optim.warmup_epochs": [1, 9], "max_epochs": 2},
            "train.optim.warmup_epochs",
            "only 1 of the range is < train.num_epochs=2",
        ),
    ],
)
def test_what_makes_no_search_is_refused(
    data: str, automl: dict[str, Any], field: str, why: str
) -> None:
    where, said = refusal(data, **automl)
    assert where == field
    assert why in said


def test_the_hint_of_a_range_is_of_the_range_and_not_of_the_field(data: str) -> None:
    with pytest.raises(SpecError) as caught:
        plan(data, **{"range.train.optim.lr": [1e-12, 1e3]})
    (problem,) = caught.value.problems
    assert problem.hint == "give range.train.optim.lr ends within what is expected"
    assert plan(data, **{"range.train.optim.lr": [1e-5, 1e-3]}).study


def test_a_metric_that_no_searched_field_changes_is_refused_alone_and_noted_beside_others(
    data: str,
) -> None:
    where, said = refusal(data, metric="parameters", parameters=["train.optim.lr"])
    assert where == "automl.metric" and "no field that is searched changes this metric" in said
    both = plan(data, metric="ACC_all,parameters", parameters=["train.optim.lr"])
    assert "parameters is the same for every trial" in str(both.study["space"]["notes"])
    assert plan(data, SMALL, metric="parameters", parameters=["model.decoder_depth"]).study


@pytest.mark.parametrize(
    ("metric", "changed_by"),
    [
        ("latency_ms", "model.arch"),
        ("peak_memory_mb", "dataset.batch_size"),
        ("seconds", "dataset.batch_size"),
        ("time_per_step", "dataset.batch_size"),
    ],
)
def test_a_figure_of_cost_is_not_searched_over_what_does_not_change_it(
    data: str, metric: str, changed_by: str
) -> None:
    where, said = refusal(data, metric=metric, parameters=["train.optim.lr"])
    assert where == "automl.metric" and changed_by in said
    sizes = {"range.model.arch": ["vit_tiny_patch16", "vit_small_patch16"]}
    choice = sizes if changed_by == "model.arch" else {"parameters": [changed_by]}
    assert plan(data, metric=metric, **choice).study["objectives"][0]["metric"] == metric


def test_a_rate_changes_the_time_of_runs_that_stop_early(data: str) -> None:
    early = {**FINETUNE, "train.early_stopping.patience": 1}
    assert plan(data, early, metric="seconds", parameters=["train.optim.lr"]).study


def test_what_is_warned_of_at_an_end_of_a_given_range_is_said(data: str) -> None:
    wide = {"range.train.optim.lr": [0.01, 0.5], "parameters": ["train.optim.lr"]}
    said = "\n".join(plan(data, **wide).notices)
    assert "train.optim.lr=0.5, an end of the range: each step at the peak rate of 0.5" in said


def test_a_range_that_another_field_forbids_as_a_whole_is_refused_and_at_one_end_said(
    data: str,
) -> None:
    spec = {**FINETUNE, "train.optim.lr_scheduler": "cosine", "train.optim.min_lr": 2e-4}
    spec["train.optim.lr"] = 1e-3
    rates = {"range.train.optim.lr": [1e-5, 1e-4], "auto_recipe": False}
    where, said = refusal(data, spec, **rates)
    assert where == "train.optim.lr"
    assert "1e-05 is refused: train.optim.min_lr: is above train.optim.lr=1e-05" in said
    notes = str(plan(data, spec, **{**rates, "range.train.optim.lr": [1e-5, 1e-3]}).notices)
    assert "train.optim.lr=1e-05 is refused (train.optim.min_lr: is above" in notes


def test_values_that_the_memory_of_the_machine_does_not_hold_are_said(
    data: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mae_sdk.run.local.memory_mb", lambda: 4096)
    sizes = {"range.model.arch": ["vit_tiny_patch16", "vit_huge_patch14"]}
    spec = {**FINETUNE, "dataset.augmentation.input_size": 224, "dataset.batch_size": 2}
    notices = plan(data, spec, **sizes).notices
    (said,) = [text for text in notices if "memory of this machine" in text]
    assert said.startswith("model.arch=vit_huge_patch14, of the range")
    batches = {"range.dataset.batch_size": [1, 10**9]}
    assert "dataset.batch_size=1000000000, of the range that is searched: the run is" in str(
        plan(data, **batches).notices
    )
    large = {**SMALL, "dataset.augmentation.input_size": 8192}
    made = Skill().plan("train", train_datasets=data, spec_overrides=large, automl_policy="off")
    assert "of the memory of this machine, which has 4 GiB" in str([str(w) for w in made.warnings])
    small = Skill().plan("train", train_datasets=data, spec_overrides=SMALL, automl_policy="off")
    assert "memory of this machine" not in str([str(w) for w in small.warnings])


def test_a_study_of_one_trial_searches_nothing_and_says_so(data: str) -> None:
    made = plan(data, max_trials=1)
    assert "1 trial runs the spec as given and searches nothing" in str(made.warnings)
    assert "trial 1 is the auto recipe" not in str(made.notices)
    assert "searches nothing" not in str(plan(data).warnings)
    found = {"best": {"trial": 0, "value": 0.5}, "trials": {"complete": 1, "of": 1}}
    assert "nothing was searched" in verdict(found)
    assert "nothing was gained" in verdict({**found, "trials": {"complete": 2, "of": 2}})
    stopped = {**found, "trials": {"complete": 1, "of": 3, "failed": 1}}
    assert "nothing was compared" in verdict(stopped)
    pruned = {**found, "trials": {"complete": 1, "of": 3, "pruned": 2}}
    assert "nothing was gained" in verdict(pruned)
    table = "trial,state,ACC_all\n0,COMPLETE,0.5\n1,COMPLETE,0.5\n2,COMPLETE,0.25\n"
    record = {"objectives": [{"metric": "ACC_all", "direction": "maximize"}]}
    told = study(table, {"trial": 0}, record, {"ACC_all": 40}, None)["verdict"]
    assert "2 trials have the same ACC_all: it tells them not apart" in told


def test_a_study_that_ends_before_a_trial_does_is_warned_of(data: str) -> None:
    long = {**FINETUNE, "train.num_epochs": 1000}
    said = str(plan(data, long, timeout=1).warnings)
    assert "the study ends after 1 s, and one trial is estimated to take" in said
    assert "the study ends after" not in str(plan(data, long, timeout="9d").warnings)
    automl = {"automl_policy": "on", "automl": {"timeout": "1h"}, "budget": "10m"}
    made = Skill().plan("train", train_datasets=data, spec_overrides=FINETUNE, **automl)
    assert "ends by automl.timeout=3600 s; budget=10m sizes" in str(made.notices)


def test_an_empty_list_and_a_choice_that_cannot_run_are_named(data: str) -> None:
    with pytest.raises(SpecError) as caught:
        plan(data, parameters=[])
    assert caught.value.problems[0].got == "an empty list"
    spec = {**FINETUNE, "dataset.augmentation.input_size": 48}
    sizes = {"range.model.arch": ["vit_tiny_patch16", "hiera_tiny_224"], "parameters": []}
    with pytest.raises(SpecError) as caught:
        plan(data, spec, **sizes)
    assert "hiera_tiny_224 is refused: model.patch_size" in str(
        [(one.message, one.got) for one in caught.value.problems]
    )


def test_a_choice_that_another_field_rules_out_is_named_with_that_field(data: str) -> None:
    """A patch that was chosen for a ViT stays, and Hiera takes none such."""
    archs = {"range.model.arch": ["vit_tiny_patch16", "hiera_tiny_224"]}
    spec = {**FINETUNE, "model.patch_size": 8, "dataset.augmentation.input_size": 64}
    notes = " ".join(plan(data, spec, **archs).study["space"]["notes"])
    assert "hiera_tiny_224 takes no such patch); it is left out: model.patch_size stays 8" in notes
    assert "model.arch is not searched, though it is asked for: one choice is left" in notes


def test_trials_that_few_images_compare_are_warned_of(data: str, tmp_path: Path) -> None:
    assert "are compared by 3 validation images, of which one is 33%" in str(
        [str(one) for one in plan(data).warnings]
    )
    many = write_imagefolder(tmp_path / "many", classes=3, per_class=7)
    made = Skill().plan(
        "train",
        train_datasets=data,
        eval_dataset=str(many),
        spec_overrides=FINETUNE,
        automl_policy="on",
    )
    assert "validation images" not in str([str(one) for one in made.warnings])


def test_what_fits_the_whole_run_and_not_the_epochs_of_a_trial_is_refused(data: str) -> None:
    slow = {**FINETUNE, "train.num_epochs": 1000, "train.ema_decay": 0.999}
    assert plan(data, slow).study
    field, said = refusal(data, slow, max_epochs=10)
    assert field == "train.ema_decay"
    assert "after the 50 steps of this run 95%" in said


def test_options_that_the_rest_of_the_spec_forbids_are_left_out_aloud(data: str) -> None:
    study = plan(data, parameters="train.loss,train.optim.lr").study
    knobs = {knob["name"]: knob for knob in study["space"]["knobs"]}
    assert knobs["train.loss"]["choices"] == ["cross_entropy", "focal"]
    assert any(note.startswith("train.loss=dice is refused") for note in study["space"]["notes"])


def test_a_range_of_what_has_no_effect_is_not_ignored_in_silence(data: str) -> None:
    notes = plan(data, **{"range.train.mask_ratio": [0.5, 0.6]}).study["space"]["notes"]
    assert any("mask_ratio is not searched, though it is asked for" in note for note in notes)


@pytest.mark.parametrize("field", ["train.class_weights", "train.freeze"])
def test_a_range_of_what_is_no_number_is_not_ignored_in_silence(data: str, field: str) -> None:
    notes = plan(data, **{f"range.{field}": [0.1, 0.9]}).study["space"]["notes"]
    assert any(note.startswith(f"{field} is not searched, though it is asked") for note in notes)


@pytest.mark.parametrize(
    ("options", "field", "said"),
    [
        ({"plateau": 50}, "automl.plateau", "do not come in a study of 2"),
        ({"plateau": 1}, "automl.plateau", None),
        ({"max_epochs": 100}, "automl.max_epochs", "train.num_epochs=4 is less"),
        ({"max_epochs": 3}, "automl.max_epochs", None),
        ({"study": "mine"}, "automl.study", "a shared storage"),
    ],
)
def test_options_that_do_nothing_beside_the_others_are_warned_of(
    options: dict[str, Any], field: str, said: str | None, data: str
) -> None:
    made = plan(data, {**FINETUNE, "train.num_epochs": 4}, **options)
    told = [str(one) for one in made.warnings if str(one).startswith(field)]
    assert bool(told) == (said is not None)
    assert (said or "") in "".join(told)


def test_no_metric_and_what_judges_the_trials_are_not_searched(data: str) -> None:
    with pytest.raises(MaeError, match="names no metric") as caught:
        plan(data, metric=[])
    assert [one.field for one in caught.value.problems] == ["automl.metric"]
    crop = "dataset.augmentation.center_crop"
    with pytest.raises(MaeError) as caught:
        plan(data, ranges={crop: [0.5, 1.0]})
    assert crop in str(caught.value)


@pytest.mark.parametrize(
    ("given", "told"),
    [([24, 100], True), ({"choices": [18, 64]}, True), ([2, 100], False)],
)
def test_batches_that_all_hold_the_whole_set_are_a_warning_and_ends_are_judged_with_their_own(
    data: str, given: Any, told: bool
) -> None:
    searched = {"parameters": ["dataset.batch_size"], "range.dataset.batch_size": given}
    made = plan(data, **searched)
    said = [str(one) for one in made.warnings if "holds all 15 training images" in str(one)]
    assert len(said) == told
    if told:
        assert said[0].startswith("dataset.batch_size: every value that is searched")
        assert "search below 15" in said[0]
    if isinstance(given, list):
        high = (
            "batch_size=100, an end of the range: the effective batch of 100 is larger than the 15"
        )
        assert any(high in note for note in made.notices), made.notices
