"""A bundle's files with odd values: each is an error of its action, or named; and what the bundle
leaves open stays open.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mae_sdk import Skill
from mae_sdk.plan.score import score
from mae_skill.errors import MaeError, SpecError, UsageError
from mae_skill.reader import dump_yaml

Made = Callable[..., Skill]

ENTRY = {"command": "tool -e {config_path}"}


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Made:
    """A bundle of one action ``go``, whose entry, row and template are given."""
    monkeypatch.setenv("MAE_RESULTS_ROOT", str(tmp_path / "results"))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.csv").write_text("a")

    def write(entry: Any = None, row: Any = None, template: Any = None, **more: Any) -> Skill:
        folder = tmp_path / "bundle"
        (folder / "references").mkdir(parents=True)
        info = {"name": "odd", "actions": {"go": {**ENTRY, **(entry or {})}}, **more}
        if row is not None:
            whole = {"source": "train_datasets", "path": "a.csv", **row}
            info["data_sources"] = {"go": {"data.x": whole}}
        (folder / "references" / "skill_info.yaml").write_text(dump_yaml(info))
        text = dump_yaml(template or {"data": {"x": ""}, "go": {"gpus": 1}})
        (folder / "references" / "spec_template_go.yaml").write_text(text)
        return Skill(folder)

    return write


ODD_ENTRIES = [
    *({key: 7} for key in ("command", "inputs", "outputs", "flags", "args", "defaults", "shell")),
    *({key: ["a", {"b": 1}]} for key in ("command", "inputs", "outputs", "flags", "defaults")),
    *({key: 7} for key in ("metric", "metric_direction", "metric_file", "result", "distributed")),
    *({key: {"a": [1]}} for key in ("command", "shell", "metric_direction", "metric_file")),
    {"inputs": {"data.x": 7}},
    {"inputs": {"data.x": {"type": ["file"]}}},
    {"outputs": {"data.x": {"optional": "maybe"}}},
]
ODD_ROWS = [
    {"source": ["train_datasets", "eval_dataset"]},
    {"source": {"train_datasets": 1}},
    {"path": 7},
    {"mapping": 7},
    {"mapping": {"a": {"path": {"b": 1}, "optional": True}}},
    {"mapping": {"a": "a.csv"}},
    {"list": ["a"]},
    {"optional": "yes"},
    {"runtime": 7},
    {"data_kind": {"images": 1}},
    {"path": None, "path_from_format": "a.csv"},
    {"multiple_sources": 1},
]


@pytest.mark.parametrize("entry", ODD_ENTRIES, ids=str)
def test_a_value_of_another_kind_in_an_entry_is_refused_by_its_key(made: Made, entry: Any) -> None:
    skill = made(entry)
    with pytest.raises(SpecError, match="not this kind of value") as caught:
        skill.plan("go", automl_policy="off")
    assert str(caught.value.field).startswith(f"actions.go.{next(iter(entry))}")
    assert score(skill.bundle)["works"] == 0


@pytest.mark.parametrize("row", ODD_ROWS, ids=str)
def test_a_value_of_another_kind_in_a_row_is_refused_by_its_key(
    made: Made, tmp_path: Path, row: Any
) -> None:
    skill = made(row=row)
    with pytest.raises(SpecError, match="not this kind of value") as caught:
        skill.plan("go", train_datasets=str(tmp_path / "data"))
    assert str(caught.value.field).startswith(f"data_sources.go.data.x.{list(row)[-1]}")
    assert score(skill.bundle)["works"] == 0


@pytest.mark.parametrize("key", ["gpu_spec_key", "automl_enabled", "validator", "network_arch"])
def test_a_value_of_another_kind_at_the_top_is_refused_by_its_key(made: Made, key: str) -> None:
    with pytest.raises(SpecError) as caught:
        made(**{key: {"a": [1]}}).plan("go")
    assert caught.value.field == key


@pytest.mark.parametrize(
    ("entry", "row", "more", "said"),
    [
        ({"upload_excludes": 7}, None, {}, "actions.go.upload_excludes (not a list of text)"),
        ({}, None, {"required_credentials": 7}, "required_credentials (not a list of text)"),
        ({}, None, {"spec_shorthand_keys": {"lr": ["a", "b"]}}, "spec_shorthand_keys (not a map"),
        ({}, None, {"data_format": {"a": 1}}, "data_format (not text)"),
        ({"flags": ["loud"]}, None, {}, "actions.go.flags (of mode: args)"),
        ({}, {"runtime": "memory"}, {}, "data_sources.go.data.x.runtime: memory"),
        ({}, {"data_kind": "sound"}, {}, "data_sources.go.data.x.data_kind: sound"),
    ],
)
def test_what_changes_no_run_is_named(
    made: Made, tmp_path: Path, entry: Any, row: Any, more: Any, said: str
) -> None:
    options = {"train_datasets": str(tmp_path / "data")} if row else {}
    plan = made(entry, row, **more).plan("go", **options)
    assert any(said in notice for notice in plan.notices)


def test_several_sources_for_a_field_of_one_path_are_refused(made: Made, tmp_path: Path) -> None:
    data = str(tmp_path / "data")
    skill = made(row={})
    with pytest.raises(UsageError, match="takes one path") as caught:
        skill.plan("go", train_datasets=[data, data])
    assert caught.value.field == "train_datasets"
    assert skill.plan("go", train_datasets=[data]).spec["data"]["x"] == f"{data}/a.csv"


@pytest.mark.parametrize(
    ("row", "template"), [({"list": True}, None), ({}, {"data": {"x": []}})], ids=["row", "spec"]
)
def test_several_sources_fill_a_list(made: Made, tmp_path: Path, row: Any, template: Any) -> None:
    data = str(tmp_path / "data")
    plan = made(row=row, template=template).plan("go", train_datasets=[data, data])
    assert plan.spec["data"]["x"] == [f"{data}/a.csv"] * 2


OPEN = {
    "data": {"x": "???", "other": {"folder": "???"}, "items": [{"size": "???"}]},
    "go": {"checkpoint": "???", "engine": "???", "gpus": 1},
}


def test_what_an_action_does_not_list_as_input_stays_open_and_is_said(made: Made) -> None:
    inputs = {"go.engine": {"type": "file"}}
    skill = made({"inputs": inputs, "mode": "args"}, template=OPEN)
    plan = skill.plan("go", spec_overrides={"go.engine": "/m.engine"})
    assert plan.spec == {**OPEN, "go": {**OPEN["go"], "engine": "/m.engine"}}
    assert not {"--data.x", "--go.checkpoint"} & set(plan.launch["command"])
    (said,) = [notice for notice in plan.notices if "left open" in notice]
    for key in ("data.x", "data.other.folder", "data.items[0].size", "go.checkpoint"):
        assert key in said
    with pytest.raises(MaeError) as caught:
        skill.plan("go")
    assert caught.value.field == "go.engine"


@pytest.mark.parametrize(
    ("more", "entry"),
    [
        ({"data_sources": {"go": {"data.x": {"source": "train_datasets"}}}}, {}),
        ({"spec_params": {"go": {"data.x": "parent_model"}}}, {}),
        ({"spec_shorthand_keys": {"where": "data.x"}}, {"command": "tool {where}"}),
        ({"gpu_spec_key": "data.x"}, {}),
        ({}, {"inputs": {"data": {"type": "folder"}}}),
    ],
    ids=["a row", "a mapping", "the command", "the devices", "an input above it"],
)
def test_what_the_bundle_names_must_be_given(made: Made, more: Any, entry: Any) -> None:
    skill = made({"inputs": {}, **entry}, template={"data": {"x": "???"}}, **more)
    with pytest.raises(MaeError) as caught:
        skill.plan("go", automl_policy="off")
    assert str(caught.value.field).startswith("data")


def test_without_declared_inputs_everything_open_must_be_given(made: Made) -> None:
    with pytest.raises(MaeError) as caught:
        made(template=OPEN).plan("go")
    assert len(caught.value.problems) == 5


def test_a_pattern_that_matches_no_file_is_said(made: Made, tmp_path: Path) -> None:
    skill = made({"inputs": {"data.x": {"type": "local_glob"}}})

    def warned(pattern: str) -> list[Any]:
        plan = skill.plan("go", spec_overrides={"data.x": pattern})
        return [item.message for item in plan.warnings if item.field == "data.x"]

    assert warned(f"{tmp_path}/data/*.mp4") == ["no file matches"]
    assert warned(f"{tmp_path}/**/*.csv") == []
    assert warned("s3://bucket/*.mp4") == []


def test_the_error_of_a_position_beyond_a_list_says_which_there_are(made: Made) -> None:
    skill = made(template={"data": {"x": [{"p": 1}, {"p": 2}]}})
    with pytest.raises(SpecError) as caught:
        skill.plan("go", spec_overrides={"data.x[5].p": 1})
    assert "[0] to [1], or [2], which adds an item" in str(caught.value)
    plan = skill.plan("go", spec_overrides={"data.x[2].p": 3})
    assert [item["p"] for item in plan.spec["data"]["x"]] == [1, 2, 3]
    assert str(plan.provenance["data.x"].kind) == "override"


@pytest.mark.parametrize("entry", [{}, {"metric": "loss"}, {"metric": ""}], ids=str)
def test_a_direction_that_is_no_such_word_is_refused(made: Made, entry: Any) -> None:
    skill = made({**entry, "metric_direction": "sideways"})
    with pytest.raises(UsageError, match="not a direction") as caught:
        skill.plan("go", automl_policy="off")
    assert caught.value.field == "actions.go.metric_direction"
    assert score(skill.bundle)["works"] == 0


def test_key_defaults_do_not_replace_a_section_and_reach_into_it(made: Made) -> None:
    skill = made(key_defaults={"go": 7})
    with pytest.raises(SpecError, match="replace a whole section") as caught:
        skill.plan("go")
    assert caught.value.field == "key_defaults.go"
    assert score(skill.bundle)["works"] == 0


def test_key_defaults_of_a_section_set_its_fields_alone(made: Made) -> None:
    skill = made(template={"go": {"gpus": 1, "lr": 1}}, key_defaults={"go": {"lr": 2}})
    assert skill.plan("go").spec["go"] == {"gpus": 1, "lr": 2}


@pytest.mark.parametrize("table", ["data_sources", "spec_params", "spec_templates"])
def test_a_table_of_an_action_that_is_not_there_is_named(made: Made, table: str) -> None:
    plan = made(**{table: {"gone": "x.yaml" if table == "spec_templates" else {}}}).plan("go")
    assert any(f"{table}.gone (no such action)" in notice for notice in plan.notices)


def test_a_table_of_paths_without_the_bundles_format_is_refused(made: Made, tmp_path: Path) -> None:
    skill = made(row={"path": None, "path_from_format": {"coco": "a.csv"}}, data_format="odvg")
    with pytest.raises(SpecError, match="data_format") as caught:
        skill.plan("go", train_datasets=str(tmp_path / "data"))
    assert (caught.value.got, caught.value.expected) == ("odvg", "coco")
