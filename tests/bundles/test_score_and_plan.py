"""What no plan of an action gets beyond, whatever is given, the score of its bundle counts as not
working, with the plan's reason; and what a plan takes, the score does not refuse.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from mae_sdk import Skill
from mae_sdk.cli.main import cli
from mae_sdk.plan.score import score
from mae_skill.errors import MaeError, SpecError
from mae_skill.reader import dump_yaml

Made = Callable[..., Skill]

ENTRY = {"command": "tool -e {config_path}"}
SECTION = {"properties": {"lr": {"type": "number"}}, "additionalProperties": False}
CLOSED = {"type": "object", "properties": {"go": {"type": "object", **SECTION}}}
LISTED = {"data.x": {"source": "train_datasets", "path": "a.csv", "list": True}}


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Made:
    """A bundle of one action ``go``, whose entry, template and schema are given."""
    monkeypatch.setenv("MAE_RESULTS_ROOT", str(tmp_path / "results"))

    def write(entry: Any = None, template: Any = None, schema: Any = None, **more: Any) -> Skill:
        folder = tmp_path / "bundle"
        for name in ("references", "schemas"):
            (folder / name).mkdir(parents=True)
        info = {"name": "small", "actions": {"go": {**ENTRY, **(entry or {})}}, **more}
        (folder / "references" / "skill_info.yaml").write_text(dump_yaml(info))
        if template is not None:
            text = dump_yaml(template)
            (folder / "references" / "spec_template_go.yaml").write_text(text)
        if schema is not None:
            (folder / "schemas" / "go.schema.json").write_text(json.dumps(schema))
        return Skill(folder)

    return write


def refused(skill: Skill, **options: Any) -> tuple[Any, str]:
    with pytest.raises(MaeError) as caught:
        skill.plan("go", automl_policy="off", **options)
    error = caught.value
    return error.field, error.message


def problems(skill: Skill) -> list[tuple[Any, str]]:
    found = score(skill.bundle)["actions"]["go"]["problems"]
    return [(one["field"], one["message"]) for one in found]


@pytest.mark.parametrize(
    ("entry", "template", "more"),
    [
        *(
            ({key: name}, None, {})
            for key in ("metric_file", "result")
            for name in ("../../x.csv", "/etc/passwd", "{bundle_dir}/x.csv", "{job_dir}/../x")
        ),
        ({"command": "tool {bundel_dir}/run.py {config_path}"}, None, {}),
        ({"command": "tool '{config_pth}'", "shell": True}, None, {}),
        ({"args": ["--root", "{bundel_dir}"]}, None, {}),
        ({"mode": "args", "args": {"--root": "{bundel_dir}/x"}}, None, {}),
        (
            {
                "execution": {
                    "type": "python_script",
                    "script": "references/skill_info.yaml",
                    "args": ["{jobdir}"],
                }
            },
            None,
            {},
        ),
        ({"config_format": "toml"}, {"a": [1, None]}, {}),
        ({"config_format": "toml"}, {"a": {"b": [{"c": 2**70}]}}, {}),
        ({}, {"go": {"num_gpus": "many"}}, {"gpu_spec_key": "go.num_gpus"}),
        ({}, None, {"estimator": "os:system"}),
        ({"command": "tool {go.tags}"}, {"go": {"tags": [1]}}, {}),
    ],
)
def test_what_every_plan_refuses_does_not_work_for_the_same_reason(
    made: Made, entry: Any, template: Any, more: Any
) -> None:
    skill = made(entry, template, **more)
    assert problems(skill) == [refused(skill)]
    ran = CliRunner().invoke(cli, ["skill", "validate", str(skill.bundle.root)])
    assert (ran.exit_code, "go: does not work" in ran.output) == (2, True)


def test_a_placeholder_that_a_closed_schema_has_not_is_no_field_that_can_be_given(
    made: Made,
) -> None:
    skill = made({"command": "tool {go.rate}"}, {"go": {"lr": 1}}, CLOSED)
    (problem,) = problems(skill)
    assert problem[0] == "actions.go.command"
    assert refused(skill) == problem
    with pytest.raises(SpecError, match=r"unknown key|neither a place of the job nor a field"):
        skill.plan("go", spec_overrides={"go.rate": 1})


def test_a_list_of_data_cannot_stand_in_a_word_of_the_command(made: Made, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("a")
    skill = made({"command": "tool {data.x}"}, {"data": {"x": []}}, data_sources={"go": LISTED})
    assert problems(skill) == [refused(skill, train_datasets=str(tmp_path))]


def test_a_field_that_only_the_command_knows_can_be_given_and_is_named(made: Made) -> None:
    skill = made({"command": "tool {python} {go.speed} {config_path}"}, {"go": {"lr": 1}})
    found = score(skill.bundle)["actions"]["go"]
    assert (found["works"], found["needs"]) == (True, ["go.speed"])
    assert any("neither the template nor the schema" in one for one in found["notices"])
    plan = skill.plan("go", spec_overrides={"go.speed": 3})
    assert plan.launch["command"][2] == "3"


def test_the_folder_of_the_bundle_is_filled_into_options(made: Made) -> None:
    skill = made({"mode": "args", "args": {"--root": "{bundle_dir}/x", "--job": "{job_dir}"}})
    plan = skill.plan("go")
    words = plan.launch["command"]
    assert words[words.index("--root") + 1] == f"{skill.bundle.root}/x"
    assert words[words.index("--job") + 1] == plan.job_dir


def test_optional_data_that_a_command_names_is_needed(made: Made) -> None:
    rows = {"go": {"data.x": {"source": "train_datasets", "path": "a.csv", "optional": True}}}
    skill = made({"command": "tool {data.x}"}, {"data": {"x": None}}, data_sources=rows)
    assert refused(skill)[0] == "actions.go.command"
    assert score(skill.bundle)["actions"]["go"]["needs"] == ["data.x"]


def test_a_file_of_results_may_be_named_by_the_folder_of_the_job(made: Made) -> None:
    skill = made({"result": "{results_dir}/a/x.json", "metric_file": "{job_dir}/m.csv"})
    assert problems(skill) == []
    launch = skill.plan("go").launch
    assert (launch["result"], launch["metric_file"]) == ("a/x.json", "m.csv")


def test_a_null_in_a_list_that_data_replace_is_no_fault_of_a_toml_file(
    made: Made, tmp_path: Path
) -> None:
    (tmp_path / "a.csv").write_text("a")
    rows = {"data_sources": {"go": LISTED}}
    skill = made({"config_format": "toml"}, {"data": {"x": [None]}}, **rows)
    assert problems(skill) == []
    skill.plan("go", train_datasets=str(tmp_path))


def row(**more: Any) -> dict[str, Any]:
    return {"source": "train_datasets", "path": "a.csv", **more}


@pytest.mark.parametrize(
    ("template", "tables"),
    [
        ({"list": [{"x": "???"}], "y": "${data.list[0].x}"}, ("data_sources", "data.list[0].x")),
        ({"list": [{"x": "???"}], "y": "a/${data.list.0.x}"}, ("data_sources", "data.list[0].x")),
        ({"list": ["???"], "y": "${data.list[0]}"}, ("data_sources", "data.list[0]")),
        ({"list": [], "y": "${data.list[0].x}"}, ("data_sources", "data.list[0].x")),
        ({"y": "${data.x}"}, ("data_sources", "data.x")),
        ({"y": "${data.z}"}, ("spec_params", "data.z")),
        ({"y": "${data.z_file}"}, ("outputs", "data.z_file")),
    ],
)
def test_a_reference_to_what_is_filled_later_is_open_and_no_fault(
    made: Made, tmp_path: Path, template: Any, tables: tuple[str, str]
) -> None:
    table, key = tables
    (tmp_path / "a.csv").write_text("a")
    of_data = table == "data_sources"
    rows = {"go": {key: row() if of_data else "output_dir"}}
    more = {} if table == "outputs" else {table: rows}
    entry = {"outputs": {key: {"type": "file"}}} if table == "outputs" else {}
    skill = made(entry, {"data": template}, **more)
    found = score(skill.bundle)["actions"]["go"]
    assert (found["problems"], found["works"]) == ([], True)
    assert found["needs"] == ([f"train_datasets → {key}"] if of_data else [])
    given = {"train_datasets": str(tmp_path)} if of_data else {}
    assert "${" not in json.dumps(skill.plan("go", **given).spec)


@pytest.mark.parametrize("written", ["${data.list[1].x}", "${data.list[0].z}", "${data.lst}"])
def test_a_reference_to_what_nothing_fills_is_refused_by_both(made: Made, written: str) -> None:
    tables = {"data_sources": {"go": {"data.list[0].x": row()}}}
    skill = made({}, {"data": {"list": [{"x": "???"}], "y": written}}, **tables)
    assert problems(skill) == [("data.y", "a reference names a field that is missing")]
    with pytest.raises(SpecError) as caught:
        skill.plan("go")
    fields = {one.field: one.message for one in caught.value.problems}
    assert fields["data.y"] == "a reference names a field that is missing"


def test_data_in_a_list_that_nobody_gives_are_missing_and_no_pattern(made: Made) -> None:
    tables = {"data_sources": {"go": {"data.list[0].x": row()}}}
    skill = made({}, {"data": {"list": [{"x": "???"}]}}, **tables)
    assert refused(skill) == ("data.list[0].x", "go needs data")


def test_optional_data_in_a_list_stay_open_and_are_named(made: Made) -> None:
    tables = {"data_sources": {"go": {"data.list[0].x": row(optional=True)}}}
    plan = made({}, {"data": {"list": [{"x": "???"}]}}, **tables).plan("go")
    assert plan.spec["data"]["list"] == [{"x": "???"}]
    assert any("optional and in a list: data.list[0].x" in one for one in plan.notices)


def schema(kind: Any, **more: Any) -> dict[str, Any]:
    node = {"type": kind, **more}
    return {"type": "object", "properties": {"go": {"properties": {"n": node}}}}


ONLY_GO = {**schema("integer"), "additionalProperties": False}
DATA = {"data_sources": {"go": {"go.n": row()}}}


@pytest.mark.parametrize(
    ("entry", "template", "described", "more", "field"),
    [
        ({"outputs": {"go.n": {"type": "file"}}}, {"n": 1}, schema("integer"), {}, "go.n"),
        ({"outputs": {"out.x": {"type": "file"}}}, {"n": 1}, ONLY_GO, {}, "out"),
        ({}, {"n": 1}, schema("integer"), {"spec_params": {"go": {"go.n": "output_dir"}}}, "go.n"),
        ({}, {"n": 1}, ONLY_GO, {"spec_params": {"go": {"a.b": "assign_const_value,3"}}}, "a"),
        ({}, {"n": 1}, None, {"spec_params": {"go": {"go.n.x": "output_dir"}}}, "go.n"),
        ({}, {"n": None}, schema("integer"), DATA, "go.n"),
        ({}, {"n": 1}, ONLY_GO, {"data_sources": {"go": {"data.x": row()}}}, "data"),
        ({}, {"n": 1}, None, {"data_sources": {"go": {"go.n.x": row()}}}, "go.n"),
        ({}, {"n": []}, None, {"data_sources": {"go": {"go.n[3]": row()}}}, "go.n[3]"),
        (
            {},
            {"n": ""},
            schema("string"),
            {"data_sources": {"go": {"go.n": row(list=True)}}},
            "go.n",
        ),
        (
            {},
            {"n": ""},
            schema("string"),
            {"data_sources": {"go": {"go.n": {**row(), "mapping": {"a": {"path": "a.csv"}}}}}},
            "go.n",
        ),
        (
            {},
            {"labels": None, "n": 1},
            None,
            {"data_sources": {"go": {"go.lables": row()}}},
            "data_sources.go.go.lables",
        ),
    ],
)
def test_what_a_table_fills_must_fit_its_field(
    made: Made, tmp_path: Path, entry: Any, template: Any, described: Any, more: Any, field: str
) -> None:
    (tmp_path / "a.csv").write_text("a")
    skill = made(entry, {"go": template}, described, **more)
    given = {"train_datasets": str(tmp_path)} if "data_sources" in more else {}
    with pytest.raises(MaeError) as caught:
        skill.plan("go", automl_policy="off", **given)
    plans = getattr(caught.value, "problems", None) or [caught.value]
    assert [(one.field, one.message) for one in plans] == problems(skill)
    assert [one.field for one in plans] == [field]


def test_one_source_fills_a_field_that_holds_lists_alone(made: Made, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("a")
    skill = made({}, {"go": {"n": None}}, schema("array"), **DATA)
    assert problems(skill) == []
    plan = skill.plan("go", automl_policy="off", train_datasets=str(tmp_path))
    assert plan.spec["go"]["n"] == [str(tmp_path / "a.csv")]


@pytest.mark.parametrize(
    ("paths", "needs"),
    [
        ({"path": "{go.k}.csv"}, ["go.k → go.n", "train_datasets → go.n"]),
        ({"path": "{go.has}.csv"}, ["train_datasets → go.n"]),
        ({"path_from_format": {"coco": "a.csv"}}, ["go.n"]),
        ({"path_from_format": {"*": "a.csv"}}, ["train_datasets → go.n"]),
    ],
)
def test_the_score_names_what_the_path_of_data_needs(
    made: Made, tmp_path: Path, paths: dict[str, Any], needs: list[str]
) -> None:
    (tmp_path / "a.csv").write_text("a")
    rows = {"go": {"go.n": {"source": "train_datasets", **paths}}}
    skill = made({}, {"go": {"n": None, "has": "a"}}, data_sources=rows)
    assert score(skill.bundle)["actions"]["go"]["needs"] == needs
    asked = {"go.k": "a"} if "go.k → go.n" in needs else {}
    if "go.n" in needs:
        asked, given = {"go.n": str(tmp_path / "a.csv")}, {}
    else:
        given = {"train_datasets": str(tmp_path)}
    skill.plan("go", spec_overrides=asked, **given)


def test_a_condition_of_data_that_is_no_mapping_is_an_error_of_its_row(made: Made) -> None:
    rows = {"data_sources": {"go": {"go.n": row(when="x is 3")}}}
    skill = made({}, {"go": {"n": None}}, **rows)
    said = "not this kind of value in the bundle's skill_info.yaml"
    assert problems(skill) == [refused(skill)] == [("data_sources.go.go.n.when", said)]


def needs(skill: Skill) -> list[str]:
    found: list[str] = score(skill.bundle)["actions"]["go"]["needs"]
    return found


def test_options_need_no_template(made: Made) -> None:
    skill = made({"mode": "args", "command": "tool"})
    assert problems(skill) == []
    plan = skill.plan("go", spec_overrides={"lr": 1, "quiet": False})
    assert plan.launch["command"][1:] == ["--lr", "1"]


def test_what_only_an_option_of_the_caller_fills_is_needed_where_the_command_names_it(
    made: Made, tmp_path: Path
) -> None:
    (tmp_path / "w.pth").write_text("weights")
    skill = made({"command": "tool {go.weights}"}, spec_params={"go": {"go.weights": "ptm"}})
    assert refused(skill)[0] == "actions.go.command"
    assert needs(skill) == ["go.weights"]
    skill.plan("go", ptm=str(tmp_path / "w.pth"))


def test_a_reference_to_a_field_that_the_command_names_is_open(made: Made) -> None:
    skill = made({"command": "tool {go.a} {config_path}"}, {"data": {"b": "${go.a}"}})
    assert problems(skill) == []
    assert skill.plan("go", spec_overrides={"go.a": 3}).spec["data"]["b"] == 3


def test_data_that_no_source_fills_are_needed_by_their_key(made: Made, tmp_path: Path) -> None:
    rows = {"go": {"go.n": {"path": "a.csv"}, "go.m": {"value": 3}}}
    skill = made({}, {"go": {"n": None, "m": None}}, data_sources=rows)
    assert needs(skill) == ["go.n"]
    assert refused(skill) == ("go.n", "go needs data")
    (tmp_path / "a.csv").write_text("a")
    skill.plan("go", spec_overrides={"go.n": str(tmp_path / "a.csv")})


@pytest.mark.parametrize(
    ("entry", "more", "given"),
    [
        ({"inputs": {"go.model": {"type": "file"}}}, {}, "go.model"),
        ({"command": "tool {m}"}, {"spec_shorthand_keys": {"m": "go.model"}}, "m"),
    ],
)
def test_what_must_be_given_and_a_closed_schema_has_not_does_not_work(
    made: Made, tmp_path: Path, entry: Any, more: Any, given: str
) -> None:
    (tmp_path / "m").write_text("model")
    skill = made(entry, {"go": {"lr": 1}}, CLOSED, **more)
    assert len(problems(skill)) == 1
    with pytest.raises(SpecError):
        skill.plan("go", automl_policy="off", spec_overrides={given: str(tmp_path / "m")})


@pytest.mark.parametrize(
    ("entry", "more", "is_said"),
    [
        ({}, {}, True),
        ({"inputs": {"results_dir": {"type": "folder"}}}, {}, False),
        ({"outputs": {"results_dir": {"type": "folder"}}}, {}, False),
        ({}, {"spec_params": {"go": {"results_dir": "output_dir"}}}, False),
    ],
)
def test_a_folder_of_results_outside_the_job_is_said(
    made: Made, tmp_path: Path, entry: Any, more: Any, is_said: bool
) -> None:
    skill = made(entry, {"results_dir": str(tmp_path)}, **more)
    said = [one for one in skill.plan("go").notices if one.startswith("outside the job")]
    assert bool(said) == is_said
    assert not said or f"results_dir={tmp_path};" in said[0]
