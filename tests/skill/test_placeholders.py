"""``???`` is not given, ``${a.b}`` is another field's value, in every layer of a spec."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from mae_skill.bundle import Bundle
from mae_skill.errors import MaeError
from mae_skill.reader import dump_yaml, parse_override
from mae_skill.resolve import Resolution, layers_of, resolve

BUNDLE = Bundle.load()


def run(
    spec: dict[str, Any] | None = None, *overrides: str, action: str = "train", recipe: Any = None
) -> Resolution:
    asked = dict(parse_override(item) for item in overrides)
    return resolve(BUNDLE, action, layers_of(BUNDLE, action, spec, asked, recipe))


def errors(found: Resolution) -> dict[str | None, MaeError]:
    """All but those of data, of which these specs have none."""
    return {error.field: error for error in found.errors if error.code == "spec_invalid"}


def test_three_question_marks_say_nothing_in_any_layer() -> None:
    spec = {"train": {"num_epochs": "???", "seed": 7, "optim": "???"}, "model": "???"}
    found = run(spec, "train.seed=???", "num_epochs=???", "train.stage=???")
    assert errors(found) == {}
    assert found.spec["train"]["num_epochs"] == 10
    assert (found.spec["train"]["seed"], str(found.provenance["train.seed"])) == (7, "spec file")
    assert str(found.provenance["train.num_epochs"]) == "template"
    assert found.spec["train"]["optim"]["lr"] == 2e-4
    assert "???" not in dump_yaml(found.spec)


def test_an_alias_that_is_not_given_does_not_contradict() -> None:
    found = run({"model": {"mask_ratio": "???"}, "train": {"mask_ratio": 0.6}})
    assert errors(found) == {}
    assert found.spec["train"]["mask_ratio"] == 0.6


def test_an_item_of_a_list_must_be_given() -> None:
    found = run({"dataset": {"augmentation": {"mean": [0.5, "???", 0.5]}}})
    assert "must be given" in errors(found)["dataset.augmentation.mean[1]"].message


VALUES = [
    ("${train.optim.lr}", "train.optim.min_lr", 2e-4),
    ("${.lr}", "train.optim.min_lr", 2e-4),
    ("${..num_epochs}", "train.optim.warmup_epochs", 10),
    ("${...dataset.batch_size}", "train.optim.warmup_epochs", 3),
    ("${dataset.augmentation.mean}", "dataset.augmentation.std", [0.485, 0.456, 0.406]),
    ("${dataset.augmentation.mean[1]}", "dataset.augmentation.hflip", 0.456),
    ("${dataset.augmentation.mean.1}", "dataset.augmentation.hflip", 0.456),
    ("${dataset[augmentation].hflip}", "dataset.augmentation.re_prob", 0.5),
    ("${train.cudnn.deterministic}", "train.compile", True),
    ("${train.stage}", "model_name", "pretrain"),
    ("a-${train.stage}-${train.num_epochs}-b", "model_name", "a-pretrain-10-b"),
    ("${train.num_epochs}${train.num_epochs}", "train.seed", 1010),
    ("${train.${train.stage_of}}", "model_name", None),
    ("$5 and {x}", "model_name", "$5 and {x}"),
    ("${evaluate.batch_size}", "dataset.segmentation.ignore_index", None),
    ("${model.mask_ratio}", "dataset.augmentation.hflip", 0.75),
    ("/data/${model.arch}/x", "dataset.train_data_sources", "/data/convnextv2_base/x"),
    (["${model.arch}", "b"], "dataset.train_data_sources", ["convnextv2_base", "b"]),
]


@pytest.mark.parametrize(("written", "key", "value"), [row for row in VALUES if row[2] is not None])
def test_a_reference_is_the_other_fields_value(written: Any, key: str, value: Any) -> None:
    found = run({key: written})
    assert errors(found) == {}
    here: Any = found.spec
    for part in key.split("."):
        here = here[part]
    assert here == value
    assert type(here) is type(value)
    if "${" in str(written):
        assert str(found.provenance[key]).startswith("spec file (= ")


def test_a_reference_follows_the_last_word_and_other_references() -> None:
    spec = {
        "train": {"optim": {"min_lr": "${train.optim.lr}", "warmup_epochs": "${.milestones[0]}"}},
        "model_name": "${.train.stage}-${train.optim.min_lr}",
    }
    found = run(spec, "train.optim.lr=5e-4", "train.optim.milestones=[1,2]", "stage=finetune")
    assert errors(found) == {}
    assert found.spec["train"]["optim"]["min_lr"] == 5e-4
    assert found.spec["train"]["optim"]["warmup_epochs"] == 1
    assert found.spec["model_name"] == "finetune-0.0005"


def test_an_override_refers_as_a_file_does_and_provenance_shows_it() -> None:
    found = run(None, "train.optim.min_lr=${train.optim.lr}")
    assert found.spec["train"]["optim"]["min_lr"] == 2e-4
    assert str(found.provenance["train.optim.min_lr"]) == "override (= ${train.optim.lr})"


def test_a_resolved_spec_that_is_read_again_is_the_same() -> None:
    spec = {"model_name": "run-${train.stage}", "train.optim.min_lr": "${.lr}"}
    found = run(spec)
    assert run(json.loads(json.dumps(found.spec))).spec == found.spec


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("${oc.env:HOME}", "resolver oc.env is not supported"),
        ("${oc.env:HOME,/tmp}/x", "resolver oc.env"),
        ("${now:%Y}", "resolver now"),
        ("${eval:'1+1'}", "resolver eval"),
        ("${hydra:runtime.cwd}", "resolver hydra"),
        ("${nope.nothing}", "that is missing"),
        ("${train.num_epoch}", "that is missing"),
        ("${train.optim.milestones[9]}", "that is missing"),
        ("${train.resume_training_checkpoint_path}/x", "gives no text"),
        ("${train.optim}", None),
        ("x${train.optim}", "gives no text"),
        ("x${train.gpu_ids}", "gives no text"),
        ("${model_name}", "in a circle"),
        ("${wandb.name}", "in a circle"),
        ("${.....x}", "leads above"),
        ("${}", "not a reference"),
        ("${ }", "not a reference"),
        ("${a..b}", "not a reference"),
        ("${a b", "not closed"),
        ("${a${b}", "not closed"),
        ("\\${train.stage}", "escaped"),
        ("\\\\${train.stage}", "escaped"),
    ],
)
def test_a_reference_that_leads_nowhere_is_one_error_that_names_the_field(
    written: str, said: str | None
) -> None:
    found = run({"model_name": written, "wandb": {"name": "${model_name}"}})
    problem = errors(found)["model_name"]
    if said is not None:
        assert said in problem.message
        assert problem.got == written
    assert [error.field for error in found.errors].count("model_name") == 1
    assert problem.expected


def test_a_field_refers_to_what_is_not_given() -> None:
    found = run({"model_name": "${train.results_dir}/x", "train": {"results_dir": "???"}})
    assert list(errors(found)) == ["model_name"]


@pytest.mark.parametrize(
    "spec",
    [
        {f"k{n}": f"${{k{n + 1}}}${{k{n + 1}}}" for n in range(40)} | {"k40": "x" * 9},
        {f"k{n}": [f"${{k{n + 1}}}"] * 9 for n in range(20)} | {"k20": "x"},
        {f"k{n}": f"${{k{n + 1}}}" for n in range(200)} | {"k200": "x"},
        {"model_name": "${" * 2000 + "}" * 2000},
    ],
    ids=["texts", "lists", "chain", "nested"],
)
def test_references_that_stand_for_too_much_are_bounded(spec: dict[str, Any]) -> None:
    found = run(spec)
    assert found.errors


def test_a_key_that_is_a_reference_is_refused_and_never_taken_as_the_key(tmp_path: Path) -> None:
    from mae_sdk import Skill

    for bad in ("${model_name}", " ", True, 5, ["a"], {"a": 1}):
        with pytest.raises(MaeError) as caught:
            Skill().plan(
                "train", spec={"encryption_key": bad}, results_root=str(tmp_path / "results")
            )
        assert "encryption_key" in str(caught.value)
        assert str(bad).strip() == "" or f"{bad!r}" not in str(caught.value)


def foreign(root: Path, template: str, schema: dict[str, Any], info: str = "") -> Bundle:
    (root / "references").mkdir(parents=True)
    (root / "schemas").mkdir()
    (root / "references" / "skill_info.yaml").write_text(
        "name: foreign\nnetwork_arch: x\nactions:\n  evaluate: {command: run}\n"
        "  export: {command: run}\n" + info
    )
    (root / "references" / "spec_template_evaluate.yaml").write_text(template)
    (root / "schemas" / "evaluate.schema.json").write_text(json.dumps(schema))
    return Bundle.load(root)


def test_another_bundles_question_marks_must_be_filled_each_by_name(tmp_path: Path) -> None:
    schema = {
        "type": "object",
        "default": {"evaluate": {"checkpoint": "???", "batch": "???", "folder": "???"}},
        "properties": {
            "evaluate": {
                "type": "object",
                "properties": {
                    "checkpoint": {"type": "string", "default": "???"},
                    "batch": {"type": "integer", "default": 4},
                    "folder": {"type": "string"},
                    "size": {"type": "integer"},
                },
            }
        },
    }
    template = (
        "evaluate:\n  checkpoint: ???\n  batch: ???\n  folder: ???\n  size: ???\n"
        "export:\n  file: ???\n"
    )
    info = "data_sources: {evaluate: {evaluate.folder: {source: eval_dataset, optional: true}}}\n"
    bundle = foreign(tmp_path / "bundle", template, schema, info)
    found = resolve(bundle, "evaluate", layers_of(bundle, "evaluate"))
    assert [(error.field, error.message[:13]) for error in found.errors] == [
        ("evaluate.checkpoint", "must be given"),
        ("evaluate.size", "must be given"),
    ]
    given = {"evaluate.checkpoint": "a.pth", "evaluate.size": 3}
    found = resolve(bundle, "evaluate", layers_of(bundle, "evaluate", {}, given))
    assert found.errors == []
    assert found.spec["evaluate"] == {"checkpoint": "a.pth", "size": 3, "batch": 4}
