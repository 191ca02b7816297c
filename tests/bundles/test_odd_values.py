"""A bundle's files with odd values: each is an error of its action, or named; and what the bundle
leaves open stays open.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mae_sdk import Skill
from mae_sdk.launch import record_of
from mae_sdk.plan.score import score
from mae_skill.bundle import Bundle
from mae_skill.errors import DataError, MaeError, NotFoundError, SpecError, UsageError
from mae_skill.reader import dump_yaml

Made = Callable[..., Skill]

ENTRY = {"command": "tool -e {config_path}"}
SCRIPT = {"type": "python_script", "script": "references/skill_info.yaml"}


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
    *({key: ["a..b"]} for key in ("flags", "inputs", "outputs")),
    *({"defaults": {key: 1}} for key in ("a..b", "", "[0]", "a[x]", "a.")),
    {"defaults": [{"name": 7}]},
    {"args": {"--": 1}},
    {"grace_seconds": -3},
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
        ({}, {"path": None, "mapping": {"a": None, "b": {"path": "a.csv"}}}, {}, ".a (no value)"),
        ({}, None, {"data_sources": {"go": {"data.x": None}}}, "data_sources.go.data.x (no value)"),
        ({}, None, {"spec_params": {"go": {"go.gpus": None}}}, "spec_params.go.go.gpus (no value)"),
        ({}, None, {"spec_shorthand_keys": {"lr": "train.lr"}}, "lr: train.lr (no action has this"),
        ({}, None, {"gpu_spec_key": "train.gpus"}, "gpu_spec_key: train.gpus (no action has this"),
        ({}, None, {"automl_keys": {"epochs": "a.b"}}, "automl_keys.epochs: a.b (no action has"),
        ({}, None, {"inherit": {"go": ["a.b"]}}, "inherit.go[0]: a.b (no action has this"),
        ({"execution": SCRIPT}, None, {}, "actions.go.command (execution goes before it)"),
        ({"execution": SCRIPT, "shell": True}, None, {}, "go.shell (execution goes before it)"),
        ({}, {"path_from_format": {"*": "b.csv"}}, {}, "path_from_format (path goes before it)"),
        ({}, {"mapping": {"a": {"path": "a.csv"}}}, {}, "data.x.path (mapping goes before it)"),
        ({}, None, {"name": 7}, "name (not text)"),
        ({}, None, {"name": ["a"]}, "name (not text)"),
        ({"metric": "loss"}, None, {}, "actions.go.metric (it acts beside metric_direction)"),
        ({"metric_direction": "min"}, None, {}, "metric_direction (it acts beside metric)"),
        ({"defaults": [{"name": "go.gpus", "bogus": 1}]}, None, {}, "defaults.go.gpus.bogus"),
        ({"args": {"--gpus": {"default": 1, "typ": 1}}}, None, {}, "args.--gpus.typ"),
        ({}, None, {"spec_params": {"go": {"go.gpus": "Two", "go.w": 7}}}, "gives text where the"),
    ],
)
def test_what_changes_no_run_is_named(
    made: Made, tmp_path: Path, entry: Any, row: Any, more: Any, said: str
) -> None:
    options = {"train_datasets": str(tmp_path / "data")} if row else {}
    plan = made(entry, row, **more).plan("go", **options)
    assert any(said in notice for notice in plan.notices)


@pytest.mark.parametrize("value", [7, True, 1.5, [1], {"a": 1}], ids=str)
@pytest.mark.parametrize("field", ["results_dir", "go.file"])
def test_a_constant_that_is_no_path_is_refused_for_a_field_of_one(
    made: Made, field: str, value: Any
) -> None:
    skill = made({"outputs": {"go.file": {"type": "file"}}}, spec_params={"go": {field: value}})
    with pytest.raises(SpecError, match="not a path") as caught:
        skill.plan("go")
    assert caught.value.field == f"spec_params.go.{field}"
    assert score(skill.bundle)["works"] == 0


@pytest.mark.parametrize("value", [5, [1], "text"], ids=str)
def test_a_default_that_would_replace_a_section_is_refused(made: Made, value: Any) -> None:
    with pytest.raises(SpecError, match="replace a whole section") as caught:
        made({"defaults": {"data": value}}).plan("go")
    assert caught.value.field == "actions.go.defaults.data"


def test_a_default_that_is_a_section_joins_that_of_the_template(made: Made) -> None:
    plan = made({"defaults": {"go": {"lr": 0.1, "deep": {"a": 1}}}}).plan("go")
    assert plan.spec["go"] == {"gpus": 1, "lr": 0.1, "deep": {"a": 1}}


@pytest.mark.parametrize("dialect", [{}, {"x_tao_schema": True}], ids=["plain", "upstream"])
def test_null_in_a_template_is_a_field_that_is_not_given(made: Made, dialect: Any) -> None:
    kinds = {"flag": "boolean", "n": "integer", "s": "string", "l": "array"}
    fields: dict[str, Any] = {name: {"type": kind} for name, kind in kinds.items()}
    fields["e"] = {"type": "string", "enum": ["a", "b"]}
    schema = {"properties": {"go": {"type": "object", "properties": fields}}, **dialect}
    skill = made(template={"go": dict.fromkeys(fields)})
    (skill.bundle.root / "schemas").mkdir()
    (skill.bundle.root / "schemas" / "go.schema.json").write_text(json.dumps(schema))
    assert skill.plan("go").spec == {"go": dict.fromkeys(fields)}
    with pytest.raises(SpecError):
        skill.plan("go", spec_overrides={"go.e": "c"})


def test_a_reference_to_what_is_not_given_stays_open_where_the_action_does_not_read_it(
    made: Made,
) -> None:
    inputs = {"data.x": {"type": "folder", "optional": True}, "data.y": {"type": "folder"}}
    template = {
        "data": {"x": "", "y": "${other.b}"},
        "other": {"a": "???", "b": "${other.d}", "c": ["${other.a}/x", 1], "d": "???"},
    }
    skill = made({"inputs": inputs}, template={**template, "go": {"lr": "${other.a}"}})
    assert score(skill.bundle)["actions"]["go"]["problems"] == []
    with pytest.raises(SpecError) as caught:
        skill.plan("go")
    assert caught.value.field == "data.y"
    assert caught.value.expected == "other.d=VALUE"
    plan = skill.plan("go", spec_overrides={"other.d": str(skill.bundle.root)})
    assert plan.spec["data"]["y"] == plan.spec["other"]["b"] == str(skill.bundle.root)
    assert (plan.spec["other"]["a"], plan.spec["other"]["c"]) == ("???", ["???", 1])
    assert plan.spec["go"] == {"lr": "???"}


@pytest.mark.parametrize("word", ["parent_model", "parent_model_or_ptm", "ptm"])
def test_what_is_optional_is_no_need(made: Made, word: str) -> None:
    optional = {"type": "file", "optional": True}
    skill = made(
        {"inputs": {"data.x": optional, "go.model": optional}},
        row={"path": "a.csv"},
        spec_params={"go": {"go.model": word}},
    )
    assert score(skill.bundle)["actions"]["go"]["needs"] == []


@pytest.mark.parametrize("named", ["inputs", "mapping"])
def test_a_file_that_is_named_and_not_there_is_refused_when_planned(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str
) -> None:
    inputs = {"go.checkpoint": {"type": "file"}, "go.weights": {"type": "file", "optional": True}}
    params = {"go.weights": "ptm", **({"go.checkpoint": "parent_model"} if named else {})}
    entry = {"inputs": inputs if named == "inputs" else {"go.weights": inputs["go.weights"]}}
    skill = made(entry, template={"go": {"checkpoint": "???"}}, spec_params={"go": params})
    with pytest.raises(MaeError, match="there is no such file") as caught:
        skill.plan("go", spec_overrides={"go.checkpoint": "x.pth"})
    assert (caught.value.field, caught.value.got) == ("go.checkpoint", "x.pth")
    for value in ("s3://bucket/x.pth", str(tmp_path / "data" / "a.csv")):
        plan = skill.plan("go", spec_overrides={"go.checkpoint": value, "go.weights": "yolo.pt"})
        said = [item.message for item in plan.warnings if item.field == "go.weights"]
        assert said == ["the file named is not here"]  # a runner may fetch weights by their name


def test_a_file_of_the_callers_folder_reaches_a_script_that_works_elsewhere(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path / "data")
    execution = {"type": "python_script", "script": "run.py"}
    skill = made({"execution": execution, "inputs": {"go.file": {"type": "file"}}})
    (skill.bundle.root / "run.py").touch()
    plan = skill.plan("go", spec_overrides={"go.file": "a.csv"})
    assert plan.spec["go"]["file"] == str(tmp_path / "data" / "a.csv")


def test_several_sources_for_a_field_of_one_path_are_refused(made: Made, tmp_path: Path) -> None:
    data = str(tmp_path / "data")
    skill = made(row={})
    with pytest.raises(UsageError, match="takes one path") as caught:
        skill.plan("go", train_datasets=[data, data])
    assert caught.value.field == "train_datasets"
    assert skill.plan("go", train_datasets=[data]).spec["data"]["x"] == f"{data}/a.csv"


@pytest.mark.parametrize("word", ["", "???"])
def test_several_sources_for_fields_of_one_path_are_told_once(
    made: Made, tmp_path: Path, word: str
) -> None:
    row = {"source": "train_datasets", "path": "a.csv"}
    skill = made(
        template={"data": {"x": word, "y": word}, "go": {"gpus": 1}},
        data_sources={"go": {"data.x": row, "data.y": row}},
    )
    with pytest.raises(UsageError, match=r": data\.x and data\.y take one path each") as caught:
        skill.plan("go", train_datasets=[str(tmp_path / "data")] * 2)
    assert caught.value.field == "train_datasets"


BOTH = {"outputs": {"data.x": {"type": "folder"}}}


@pytest.mark.parametrize("gives", ["source", "override", "nothing"])
def test_a_folder_of_results_that_is_read_too_is_the_bundles_fault(
    made: Made, tmp_path: Path, gives: str
) -> None:
    skill = made(BOTH, row={})
    data = str(tmp_path / "data")
    options: dict[str, Any] = {"source": {"train_datasets": data}}.get(gives, {})
    if gives == "override":
        options = {"spec_overrides": {"data.x": data}}
    with pytest.raises(SpecError, match=r"something to read \(data_sources\.go\)") as caught:
        skill.plan("go", **options)
    assert caught.value.field == "actions.go.outputs.data.x"
    assert score(skill.bundle)["works"] == 0


def test_an_input_that_is_a_folder_of_results_may_stay_open_and_is_not_given(
    made: Made, tmp_path: Path
) -> None:
    skill = made({**BOTH, "inputs": {"data.x": {"type": "folder"}}})
    assert score(skill.bundle)["works"] == 1
    plan = skill.plan("go")
    assert plan.spec["data"]["x"] == f"{plan.job_dir}/go"
    with pytest.raises(SpecError, match=r"something to read \(actions\.go\.inputs\)"):
        skill.plan("go", spec_overrides={"data.x": str(tmp_path / "data")})


def test_a_folder_of_results_among_the_inputs_is_the_jobs(made: Made, tmp_path: Path) -> None:
    files = {"results_dir": {"type": "folder"}}
    skill = made({"inputs": files, "outputs": files}, template={"results_dir": "", "go": {"a": 1}})
    plan = skill.plan("go", spec_overrides={"results_dir": str(tmp_path)})
    assert plan.spec["results_dir"] == plan.job_dir
    assert "results_dir of the spec is not used: a job writes into its own folder" in plan.notices


@pytest.mark.parametrize(("named", "kept"), [("${results_dir}/go", True), ("/elsewhere", False)])
def test_the_folder_of_an_action_stays_where_it_is_inside_the_jobs(
    made: Made, named: str, kept: bool
) -> None:
    template = {"results_dir": "???", "go": {"results_dir": named}}
    skill = made(template=template, spec_params={"go": {"results_dir": "output_dir"}})
    plan = skill.plan("go")
    assert plan.spec["go"]["results_dir"] == (f"{plan.job_dir}/go" if kept else None)
    assert ("go.results_dir of the spec is not used" in str(plan.notices)) == (not kept)


def test_a_file_that_is_read_and_written_is_the_persons(made: Made, tmp_path: Path) -> None:
    skill = made({"outputs": {"data.x": {"type": "file"}}}, row={})
    plan = skill.plan("go", train_datasets=str(tmp_path / "data"))
    assert plan.spec["data"]["x"] == str(tmp_path / "data" / "a.csv")
    with pytest.raises(DataError, match="go needs data"):
        skill.plan("go")


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
    engine = str(skill.bundle.root / "references" / "skill_info.yaml")
    plan = skill.plan("go", spec_overrides={"go.engine": engine})
    assert plan.spec == {**OPEN, "go": {**OPEN["go"], "engine": engine}}
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


def test_words_of_a_template_that_yaml_1_1_reads_otherwise_are_named(made: Made) -> None:
    text = "go:\n  amp: no\n  list: [1, off]\n  port: 010\n  big: 1_000\n  when: 1:30\n"
    quiet = (
        "  said: 'no'\n  plain: true\n  rate: 2e-4\n  zero: 0\n  word: none\n  day: 2020-01-02\n"
    )
    skill = made(template={"go": {"lr": 1}})
    path = skill.bundle.root / "references" / "spec_template_go.yaml"
    path.write_text(text + quiet)
    (said,) = [one for one in skill.plan("go").notices if "YAML 1.1" in one]
    words = (
        "go.amp: no (text here, false there), go.list[1]: off (text here, false there), "
        "go.port: 010 (10 here, 8 there), go.big: 1_000 (text here, 1000 there), "
        "go.when: 1:30 (text here, 90 there)"
    )
    assert f"otherwise: {words}; YAML 1.2" in said

    path.write_text("go:\n" + quiet)
    assert not any("YAML 1.1" in one for one in skill.plan("go").notices)


def test_words_of_skill_info_that_reach_a_spec_and_yaml_1_1_reads_otherwise_are_named(
    made: Made,
) -> None:
    skill = made(template={"go": {"amp": True, "lr": 1, "port": 1, "z": "", "w": ""}})
    (Path(skill.bundle.root) / "references" / "skill_info.yaml").write_text(
        "name: no\nkey_defaults: {go.lr: 010}\nactions:\n"
        "  go: {command: 'tool {config_path}', defaults: {go.amp: no, go.port: 0b11}}\n"
        "  other: {command: tool, defaults: {other.x: yes}}\n"
        "spec_params: {go: {go.z: on}}\n"
    )
    again = Skill(skill.bundle.root)
    (said,) = [one for one in again.plan("go", automl_policy="off").notices if "YAML 1.1" in one]
    assert said.startswith(
        "words of skill_info.yaml that YAML 1.1 (PyYAML) reads otherwise: "
        "key_defaults.go.lr: 010 (10 here, 8 there), "
        "actions.go.defaults.go.amp: no (text here, false there), "
        "actions.go.defaults.go.port: 0b11 (text here, 3 there), "
        "spec_params.go.go.z: on (text here, true there); YAML 1.2 is read here"
    )
    assert said in score(again.bundle)["actions"]["go"]["notices"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes in folders here")
def test_a_pipe_in_the_place_of_a_template_is_an_error_of_that_file(made: Made) -> None:
    skill = made(template={"go": {"lr": 1}})
    path = skill.bundle.root / "references" / "spec_template_go.yaml"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(SpecError, match="it is no regular file") as caught:
        skill.plan("go")
    assert caught.value.field == path.name


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes in folders here")
def test_a_pipe_in_the_place_of_skill_info_is_an_error_of_that_file(tmp_path: Path) -> None:
    (tmp_path / "references").mkdir()
    os.mkfifo(tmp_path / "references" / "skill_info.yaml")
    with pytest.raises(SpecError, match="it is no regular file"):
        Bundle.load(tmp_path)


@pytest.mark.parametrize("begin", ["a: " + "[" * 20_000, "\n".join("- " * n for n in (20_000,))])
def test_a_template_that_is_nested_without_end_is_refused_at_once(made: Made, begin: str) -> None:
    skill = made()
    (skill.bundle.root / "references" / "spec_template_go.yaml").write_text(begin)
    began = time.process_time()
    for ask in (lambda: skill.plan("go"), lambda: score(skill.bundle)):
        with contextlib.suppress(MaeError):
            ask()
    assert time.process_time() - began < 2
    assert score(skill.bundle)["works"] == 0


def test_words_of_a_template_are_named_where_its_schema_is_plain_json_schema_too(
    made: Made,
) -> None:
    skill = made(template={"go": {"lr": 1}})
    properties = {"go": {"type": "object", "properties": {"port": {"type": "integer"}}}}
    (skill.bundle.root / "schemas").mkdir()
    (skill.bundle.root / "schemas" / "go.schema.json").write_text(
        json.dumps({"type": "object", "properties": properties})
    )
    (skill.bundle.root / "references" / "spec_template_go.yaml").write_text("go: {port: 010}\n")
    again = Skill(skill.bundle.root)
    assert any("go.port: 010 (10 here, 8 there)" in one for one in again.plan("go").notices)


def test_a_list_in_the_place_of_a_folder_of_results_is_refused_by_its_key(made: Made) -> None:
    template = {"results_dir": "x", "go": {"results_dir": "${results_dir}/go"}}
    skill = made(template=template, spec_params={"go": {"results_dir": ["output_dir"]}})
    with pytest.raises(SpecError, match="not a path") as caught:
        skill.plan("go")
    assert caught.value.field == "spec_params.go.results_dir"
    assert score(skill.bundle)["works"] == 0


def test_key_defaults_by_action_are_named(made: Made) -> None:
    skill = made(template={"go": {"lr": 1}}, key_defaults={"go": {"go.lr": 2}})
    notices = skill.plan("go").notices
    assert any("go has: key_defaults.go.go.lr (did you mean go.lr?)" in one for one in notices)


def test_key_defaults_of_a_section_set_its_fields_alone(made: Made) -> None:
    skill = made(template={"go": {"gpus": 1, "lr": 1}}, key_defaults={"go": {"lr": 2}})
    assert skill.plan("go").spec["go"] == {"gpus": 1, "lr": 2}


@pytest.mark.parametrize("name", ["v1.0", "v[0]"])
def test_a_name_of_a_template_that_reads_as_a_dotted_key_is_refused(made: Made, name: str) -> None:
    skill = made(template={"go": {"names": {name: "car"}}})
    with pytest.raises(SpecError, match="reads as a dotted key") as caught:
        skill.plan("go")
    assert (caught.value.field, caught.value.got) == ("spec_template_go.yaml: go.names", name)


def test_a_default_of_a_field_that_nothing_else_has_is_named(made: Made) -> None:
    values = {"go.rate": 2, "go.more.any": 1, "go.shced": "cosine"}
    skill = made(template={"go": {"rate": 1, "more": {}}}, key_defaults=values)
    (notice,) = [one for one in skill.plan("go").notices if "neither the template" in one]
    assert "go has: key_defaults.go.shced;" in notice


@pytest.mark.parametrize("table", ["data_sources", "spec_params", "spec_templates"])
def test_a_table_of_an_action_that_is_not_there_is_named(made: Made, table: str) -> None:
    plan = made(**{table: {"gone": "x.yaml" if table == "spec_templates" else {}}}).plan("go")
    assert any(f"{table}.gone (no such action)" in notice for notice in plan.notices)


def test_a_table_of_paths_without_the_bundles_format_is_refused(made: Made, tmp_path: Path) -> None:
    skill = made(row={"path": None, "path_from_format": {"coco": "a.csv"}}, data_format="odvg")
    with pytest.raises(SpecError, match="data_format") as caught:
        skill.plan("go", train_datasets=str(tmp_path / "data"))
    assert (caught.value.got, caught.value.expected) == ("odvg", "coco")


LISTS = [
    ["data.x"],
    [{"name": "data.x", "type": "file"}],
    [{"data.x": {"type": "file"}}],
    {"data.x": "file"},
]


@pytest.mark.parametrize("inputs", LISTS, ids=str)
def test_inputs_as_a_list_are_needed_and_looked_for(made: Made, inputs: Any) -> None:
    skill = made({"inputs": inputs})
    with pytest.raises(DataError, match="go needs this input"):
        skill.plan("go")
    with pytest.raises(MaeError, match="there is no such file"):
        skill.plan("go", spec_overrides={"data.x": "/none"})


def test_outputs_as_a_list_are_in_the_jobs_folder(made: Made) -> None:
    plan = made({"outputs": ["results_dir", "go.onnx_file"]}).plan("go")
    assert plan.spec["results_dir"] == plan.job_dir
    assert plan.spec["go"]["onnx_file"] == f"{plan.job_dir}/go/model.onnx"


@pytest.mark.parametrize(("kind", "given"), [("file", ""), ("folder", "a.csv")])
@pytest.mark.parametrize("how", ["by its key", "as data"])
def test_an_input_of_another_type_than_declared_is_refused_and_data_said(
    made: Made, tmp_path: Path, how: str, kind: str, given: str
) -> None:
    entry = {"inputs": {"data.x": {"type": kind}}}
    options: Any = {"spec_overrides": {"data.x": str(tmp_path / "data" / given)}}
    if how == "as data":
        options = {"train_datasets": str(tmp_path / "data")}
    skill = made(entry, {"path": given} if how == "as data" else None)
    words = f"data.x is a {kind}"
    if how == "as data":  # said: bundles declare their data loosely
        assert any(words in str(item) for item in skill.plan("go", **options).warnings)
        return
    with pytest.raises(DataError, match=words) as caught:
        skill.plan("go", **options)
    assert caught.value.field == "data.x"


def test_an_archive_stands_for_the_folder_in_it(made: Made, tmp_path: Path) -> None:
    (tmp_path / "data" / "a.tar.gz").write_bytes(b"x")
    skill = made({"inputs": {"data.x": {"type": "folder"}}}, {"path": "a.tar.gz"})
    plan = skill.plan("go", train_datasets=str(tmp_path / "data"))
    assert plan.spec["data"]["x"] == str(tmp_path / "data" / "a.tar.gz")
    assert not any("is a folder" in str(item) for item in plan.warnings)


@pytest.mark.parametrize(
    ("more", "where", "kind"),
    [
        ({"spec_params": {"go": {"go": "output_dir"}}}, "spec_params.go.go", "a section"),
        ({"spec_params": {"go": {"go.gpus": "ptm"}}}, "spec_params.go.go.gpus", "a number"),
        ({"spec_params": {"go": {"go.on": "create_onnx_file"}}}, "spec_params.go.go.on", "true or"),
        ({"entry": {"outputs": {"go": {"type": "folder"}}}}, "actions.go.outputs.go", "a section"),
        (
            {"data_sources": {"go": {"go.gpus": {"source": "train_datasets", "path": "a.csv"}}}},
            "data_sources.go.go.gpus",
            "a number",
        ),
    ],
)
def test_a_path_in_the_place_of_a_section_or_a_number_is_refused(
    made: Made, more: Any, where: str, kind: str
) -> None:
    skill = made(template={"go": {"gpus": 1, "on": True}}, **more)
    with pytest.raises(SpecError, match=f"a path would replace {kind}") as caught:
        skill.plan("go")
    assert caught.value.field == where
    assert score(skill.bundle)["works"] == 0


@pytest.mark.parametrize(
    ("overrides", "field"),
    [
        ({"go": 5}, "go"),
        ({"go": [1]}, "go"),
        ({"go.gpus.x": 1}, "go.gpus"),
        ({"data.l.x": 1}, "data.l"),
    ],
    ids=str,
)
def test_an_override_takes_no_section_away_and_makes_none(
    made: Made, overrides: Any, field: str
) -> None:
    skill = made(template={"go": {"gpus": 1}, "data": {"l": [{"x": 2}]}})
    with pytest.raises(SpecError) as caught:
        skill.plan("go", spec_overrides=overrides)
    assert [one.field for one in caught.value.problems] == [field]


def test_a_section_that_a_spec_file_replaces_is_said(made: Made) -> None:
    plan = made().plan("go", spec={"go": "adam"})
    assert plan.spec["go"] == "adam"
    assert "go replaces a section that held gpus" in plan.notices


@pytest.mark.parametrize("position", ["[99999999]", "[-1]", "[0][1]"])
@pytest.mark.parametrize("value", ["", [1]], ids=str)
def test_a_position_that_no_list_has_is_refused(made: Made, value: Any, position: str) -> None:
    skill = made(template={"data": {"x": value}})
    with pytest.raises(SpecError, match="the list has no such item"):
        skill.plan("go", spec_overrides={f"data.x{position}": 1})


def test_a_path_that_names_a_field_of_null_is_one_error(made: Made, tmp_path: Path) -> None:
    data, template = str(tmp_path / "data"), {"go": {"split": None}, "data": {"x": ""}}
    skill = made(row={"path": "{go.split}.csv"}, template=template)
    with pytest.raises(SpecError, match="which is not given") as caught:
        skill.plan("go", train_datasets=data)
    assert caught.value.field == "data.x"
    plan = skill.plan("go", train_datasets=data, spec_overrides={"go.split": "a"})
    assert plan.spec["data"]["x"] == f"{data}/a.csv"


def test_an_optional_path_that_names_a_field_of_null_is_left_open(
    made: Made, tmp_path: Path
) -> None:
    template = {"go": {"split": None}, "data": {"x": ""}}
    skill = made(row={"path": "{go.split}.csv", "optional": True}, template=template)
    assert skill.plan("go", train_datasets=str(tmp_path / "data")).spec["data"]["x"] == ""


@pytest.mark.parametrize(
    ("entry", "more", "said"),
    [
        ({"metirc": "x"}, {}, "actions.go.metirc (did you mean metric?)"),
        ({"grace_secs": 3}, {}, "actions.go.grace_secs (did you mean grace_seconds?)"),
        ({}, {"spec_parms": {}}, "spec_parms (did you mean spec_params?)"),
        ({"inputs": {"data.x": {"optinal": True, "optional": True}}}, {}, "data.x.optinal;"),
    ],
)
def test_a_misspelled_key_is_named_with_the_one_that_was_meant(
    made: Made, entry: Any, more: Any, said: str
) -> None:
    assert said in " ".join(made(entry, **more).plan("go").notices)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"actions": {"go": {"comand": "tool"}}}, "actions.go.comand (did you mean command?)"),
        (
            {"data_sources": {"go": {"data.x": {"sourc": "train_datasets", "path": "a.csv"}}}},
            "data_sources.go.data.x.sourc (did you mean source?)",
        ),
    ],
)
def test_a_plan_that_fails_names_the_misspelled_keys(made: Made, more: Any, said: str) -> None:
    with pytest.raises(MaeError) as caught:
        made(**more).plan("go")
    assert said in str(caught.value.hint)


CLOSED = {
    "properties": {
        "go": {"type": "object", "properties": {"gpus": {"type": "integer"}}},
        "data": {"type": "object", "properties": {"x": {"type": "string"}}},
    },
    "additionalProperties": False,
}


@pytest.mark.parametrize("closed", [False, True])
def test_options_that_are_no_field_of_the_schema_are_named_and_refuse_nothing(
    made: Made, closed: bool
) -> None:
    args = {"--out": "go.gpus", "--other": "go.gpuss", "go.gpu": 2}
    skill = made({"mode": "args", "args": args})
    (skill.bundle.root / "schemas").mkdir()
    schema = {**CLOSED, "additionalProperties": not closed}
    (skill.bundle.root / "schemas" / "go.schema.json").write_text(json.dumps(schema))
    plan = skill.plan("go")
    assert plan.launch["command"][3:] == ["--go.gpu", "2", "--out", "1", "--other", "go.gpuss"]
    (said,) = [one for one in plan.notices if "options in args" in one]
    assert "other: go.gpuss (did you mean the field go.gpus?)" in said
    assert "go.gpu (did you mean go.gpus?)" in said


def test_a_field_of_a_command_that_is_not_there_is_named_with_the_near_one(made: Made) -> None:
    with pytest.raises(SpecError) as caught:
        made({"command": "tool {go.gpuss}"}).plan("go")
    assert caught.value.hint == "did you mean {go.gpus}?"


def test_a_null_that_a_person_gives_is_said(made: Made) -> None:
    plan = made().plan("go", spec_overrides={"go.gpus": None, "data.x": None, "go.new": None})
    assert [one for one in plan.notices if "=null" in one] == ["go.gpus=null: 1 is not used"]


def test_a_value_that_the_bundle_sets_over_its_template_says_so(made: Made) -> None:
    plan = made({"defaults": {"go.lr": 1}}, key_defaults={"go.gpus": 3}).plan("go")
    said = {key: str(origin) for key, origin in plan.provenance.items()}
    assert said["go.gpus"] == "template (key_defaults)"
    assert said["go.lr"] == "template (actions.go.defaults)"
    assert said["data.x"] == "template"


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ([], "the folder is empty"),
        (["inner/references/skill_info.yaml"], "inner"),
        (["references/skill_info.yml"], "rename references/skill_info.yml"),
        (["references/x.skill_info.yaml"], "named by its file"),
    ],
    ids=str,
)
def test_a_folder_that_is_no_bundle_says_what_is_in_it(
    tmp_path: Path, files: list[str], said: str
) -> None:
    (tmp_path / "here").mkdir()
    for name in files:
        (tmp_path / "here" / name).parent.mkdir(parents=True)
        (tmp_path / "here" / name).touch()
    with pytest.raises(NotFoundError) as caught:
        _ = Skill(tmp_path / "here").bundle
    assert said in str(caught.value)


def test_a_skill_of_no_path_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="not a path"):
        Skill(7)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["", "..", "a/../../b", "go on", "-x", "a\nb"])
def test_an_action_whose_name_is_no_name_of_a_folder_is_refused(made: Made, name: str) -> None:
    with pytest.raises(SpecError, match="not the name of an action"):
        _ = made(actions={name: {"command": "tool"}}).bundle


@pytest.mark.parametrize("name", ["", "..", "a/../../b", "go on", "a\nb"])
def test_the_others_work_beside_an_action_whose_name_is_none(
    made: Made, name: str, tmp_path: Path
) -> None:
    skill = made(actions={name: {"command": "tool"}, "go": {"command": "tool"}})
    assert skill.plan("go").launch["command"] == ["tool"]
    with pytest.raises(SpecError, match="not the name of an action"):
        skill.plan(name)
    told = score(skill.bundle)["actions"]
    assert told["go"]["works"] and not told[name]["works"]
    assert told[name]["problems"][0]["got"] == name


@pytest.mark.parametrize(("given", "seconds"), [(0, 0.0), (2, 2.0), (None, 30.0)])
def test_the_grace_of_a_job_is_the_bundles(made: Made, given: Any, seconds: float) -> None:
    assert made({"grace_seconds": given}).plan("go").launch["grace_seconds"] == seconds


def test_half_a_device_is_refused(made: Made) -> None:
    with pytest.raises(SpecError, match="not a number of devices"):
        made(gpu_spec_key="go.gpus").plan("go", spec_overrides={"go.gpus": 1.5})


def test_what_is_given_to_a_command_that_names_no_spec_is_said(made: Made) -> None:
    plan = made({"command": "tool run"}).plan("go", spec_overrides={"go.gpus": 5})
    assert any("has no {config_path}: go.gpus acts only" in one for one in plan.notices)


def test_a_value_of_another_kind_than_the_bundles_own_is_said_where_no_schema_judges(
    made: Made,
) -> None:
    given = {"go.gpus": "2", "data.x": "/none", "go.lr": 0.5}
    plan = made(template={"data": {"x": ""}, "go": {"gpus": 1, "lr": 1}}).plan(
        "go", spec_overrides=given
    )
    said = [one for one in plan.notices if "own spec has" in one]
    assert said == ["go.gpus is given text, and the bundle's own spec has a number there"]


LISTED = {
    "train": {"pretrained_path": None, "resume_path": None, "weight1": None},
    "dataset": {"labels": None},
    "results_dir": "",
}


@pytest.mark.parametrize(
    ("entry", "more", "said"),
    [
        ({}, {"spec_params": {"train.pretraned_path": "ptm"}}, "(did you mean train.pretrained_"),
        ({}, {"spec_params": {"trian.resume_path": "resume_model"}}, "mean train.resume_path?)"),
        ({"outputs": {"results_dirx": {}}}, {}, "outputs.results_dirx (did you mean results_dir?)"),
        (
            {"inputs": {"dataset.lables": {"type": "file", "optional": True}}},
            {},
            "inputs.dataset.lables (did you mean dataset.labels?)",
        ),
        ({}, {"spec_params": {"train.other": "ptm"}}, "has: spec_params.go.train.other; are they"),
        ({}, {"spec_params": {"train.weight2": "ptm"}}, "has: spec_params.go.train.weight2; are"),
        (
            {},
            {"data_sources": {"dataset.labels": {"source": "train_datsets", "optional": True}}},
            "source: train_datsets (did you mean train_datasets?)",
        ),
    ],
)
def test_a_field_of_a_table_that_is_not_there_is_named(
    made: Made, entry: Any, more: Any, said: str
) -> None:
    tables = {name: {"go": rows} for name, rows in more.items()}
    skill = made(entry, template=LISTED, **{"spec_params": {"go": {"a": "key"}}, **tables})
    assert said in " ".join(skill.bundle.notices("go"))
    assert said in " ".join([*score(skill.bundle)["actions"]["go"]["notices"]])


def test_fields_that_are_there_or_that_two_tables_name_are_not_named(made: Made) -> None:
    fields = {"train.pretrained_path": "ptm", "go.new": "parent_model", "train.x": "ptm"}
    entry = {"inputs": {"go.new": {"type": "file"}}, "command": "tool {train.x} {config_path}"}
    skill = made(entry, template=LISTED, spec_params={"go": fields})
    assert not [one for one in skill.bundle.notices("go") if "neither" in one]


def test_what_is_given_for_a_misspelled_field_is_refused(made: Made, tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_text("weights")
    skill = made(template=LISTED, spec_params={"go": {"train.pretraned_path": "ptm"}})
    assert skill.plan("go").action == "go"
    with pytest.raises(SpecError, match="would be lost") as caught:
        skill.plan("go", ptm=str(tmp_path / "w.pth"))
    assert caught.value.field == "spec_params.go.train.pretraned_path"
    assert "did you mean train.pretrained_path?" in str(caught.value.hint)


def test_data_for_a_misspelled_row_is_refused(made: Made, tmp_path: Path) -> None:
    row = {"source": "train_datasets", "path": "a.csv"}
    skill = made(template=LISTED, data_sources={"go": {"dataset.labelz": row}})
    with pytest.raises(SpecError, match="would be lost") as caught:
        skill.plan("go", train_datasets=str(tmp_path / "data"))
    assert caught.value.field == "data_sources.go.dataset.labelz"


def test_a_job_whose_field_to_resume_from_is_misspelled_is_not_said_to_resume(made: Made) -> None:
    rows = {"train.resume_pth": "resume_model"}
    skill = made(template=LISTED, spec_params={"go": rows})
    assert record_of(skill.bundle, skill.plan("go"))["resume_keys"] == []


@pytest.mark.parametrize(
    ("word", "near"),
    [
        ("outputdir", "output_dir"),
        ("output-dir", "output_dir"),
        ("Output_Dir", "output_dir"),
        ("ouput_dir", "output_dir"),
        ("create_ONNX_file", "create_onnx_file"),
        ("create__onnx_file", "create_onnx_file"),
        ("create_onx_file", "create_onnx_file"),
        ("parentmodel", "parent_model"),
        ("resume_modle", "resume_model"),
    ],
)
def test_a_misspelled_function_is_refused_with_the_one_that_was_meant(
    made: Made, word: str, near: str
) -> None:
    skill = made(
        {"outputs": {"results_dir": {}}}, None, LISTED, spec_params={"go": {"results_dir": word}}
    )
    with pytest.raises(SpecError, match="misspelled inference function") as caught:
        skill.plan("go")
    assert caught.value.field == "spec_params.go.results_dir"
    assert f"did you mean {near}?" in str(caught.value.hint)
    assert score(skill.bundle)["works"] == 0


@pytest.mark.parametrize(
    ("field", "word", "near"),
    [
        ("encryption_key", "kye", "key"),
        ("encryption_key", "Key", "key"),
        ("train.key", "keys", "key"),
        ("train.pretrained_model", "pmt", "ptm"),
        ("verbose", "verbos", "verbose"),
    ],
)
def test_a_short_function_that_is_misspelled_is_refused_in_a_field_of_its_name(
    made: Made, field: str, word: str, near: str
) -> None:
    skill = made(template={field.split(".")[0]: ""}, spec_params={"go": {field: word}})
    with pytest.raises(SpecError, match="misspelled inference function") as caught:
        skill.plan("go")
    assert f"did you mean {near}?" in str(caught.value.hint)


def test_a_short_word_in_another_field_is_a_constant(made: Made) -> None:
    skill = made(template={"train": {"mode": ""}}, spec_params={"go": {"train.mode": "ptq"}})
    assert skill.plan("go").spec["train"]["mode"] == "ptq"


@pytest.mark.parametrize("word", ["MonoDataset", "cosine", "outputs", "a/outputdir", "model.onnx"])
def test_a_constant_that_is_like_no_function_is_one(made: Made, word: str) -> None:
    skill = made(template=LISTED, spec_params={"go": {"train.resume_path": word}})
    assert skill.plan("go").spec["train"]["resume_path"] == word


def test_a_constant_that_is_written_as_one_is_never_a_function(made: Made) -> None:
    rows = {"train.resume_path": "assign_const_value,outputdir"}
    skill = made(template=LISTED, spec_params={"go": rows})
    assert skill.plan("go").spec["train"]["resume_path"] == "outputdir"


@pytest.mark.parametrize("how", ["{}", "assign_const_value,{}"])
def test_a_constant_leads_no_output_out_of_the_jobs_folder(
    made: Made, tmp_path: Path, how: str
) -> None:
    away = tmp_path / "OUT"
    outputs = {"results_dir": {"type": "folder"}, "go.file": {"type": "file"}}
    rows = {"results_dir": how.format(away / "x"), "go.file": how.format(away / "m.onnx")}
    template = {"results_dir": "", "go": {"file": ""}}
    plan = made({"outputs": outputs}, template=template, spec_params={"go": rows}).plan("go")
    assert plan.spec["results_dir"] == plan.job_dir
    assert plan.spec["go"]["file"] == f"{plan.job_dir}/go/m.onnx"
    said = [one for one in plan.notices if "a job writes into its own folder" in one]
    assert len(said) == 2
    assert str(away / "x") in said[0]


def test_a_constant_of_an_output_may_refer_to_the_jobs_folder(made: Made) -> None:
    rows = {"results_dir": "output_dir", "go.file": "${results_dir}/m.onnx"}
    template = {"results_dir": "", "go": {"file": ""}}
    skill = made({"outputs": ["go.file"]}, template=template, spec_params={"go": rows})
    plan = skill.plan("go")
    assert plan.spec["go"]["file"] == f"{plan.job_dir}/m.onnx"


@pytest.mark.parametrize("optional", [True, False])
def test_a_folder_that_stands_for_a_missing_archive_is_said(
    made: Made, tmp_path: Path, optional: bool
) -> None:
    row = {"path": "images.tar.gz", "runtime": "extracted_folder", "optional": optional}
    skill, data = made(row=row), tmp_path / "data"
    plan = skill.plan("go", train_datasets=str(data))
    assert plan.spec["data"]["x"] == str(data)
    said = f"data.x: there is no images.tar.gz in {data}; the folder itself is taken"
    assert any(said in one for one in plan.notices)

    (data / "images").mkdir()
    (data / "images" / "a.png").write_text("a")
    plan = skill.plan("go", train_datasets=str(data))
    assert plan.spec["data"]["x"] == str(data / "images")
    assert not any("itself is taken" in one for one in plan.notices)


@pytest.mark.parametrize("cwd", ["..", "../..", "/tmp"])
def test_a_script_that_would_work_outside_its_bundle_is_refused(made: Made, cwd: str) -> None:
    skill = made({"execution": {**SCRIPT, "cwd": cwd}})
    with pytest.raises(SpecError, match="outside the bundle's folder") as caught:
        skill.plan("go")
    assert caught.value.field == "actions.go.execution.cwd"
