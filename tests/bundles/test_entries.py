"""The words of an action's entry, of bundles as small as each needs: a plan takes them as they are
meant, refuses what would run wrongly, and says what it left out.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from mae_sdk import Skill, answers
from mae_sdk.cli.main import cli
from mae_sdk.cli.plan_run import plan_text
from mae_sdk.plan.score import score
from mae_skill.bundle import Bundle
from mae_skill.errors import DataError, MaeError, SpecError
from mae_skill.reader import dump_yaml

Made = Callable[..., Skill]


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Made:
    """A bundle of actions, and of templates by action; ``more`` are keys of skill_info.yaml."""
    monkeypatch.setenv("MAE_RESULTS_ROOT", str(tmp_path / "results"))

    def write(actions: Any, templates: Any = None, **more: Any) -> Skill:
        folder = tmp_path / "bundle"
        (folder / "references").mkdir(parents=True)
        info = {"name": "small", "actions": actions, **more}
        (folder / "references" / "skill_info.yaml").write_text(dump_yaml(info))
        for action, template in (templates or {}).items():
            text = template if isinstance(template, str) else dump_yaml(template)
            (folder / "references" / f"spec_template_{action}.yaml").write_text(text)
        return Skill(folder)

    return write


def words(skill: Skill, action: str = "go", **options: Any) -> list[str]:
    command: list[str] = skill.plan(action, automl_policy="off", **options).launch["command"]
    return command[1:]


def test_options_are_written_as_the_bundle_writes_them_and_once(made: Made) -> None:
    entry = {
        "command": "tool",
        "mode": "args",
        "args": {"--out": "place", "-r": 0.5, "--deep.key": 3},
        "defaults": {"place": "/tmp/x", "loud": True, "quiet": False, "off": False, "many": [1, 2]},
        "flags": ["loud", "quiet", "--always"],
    }
    assert words(made({"go": entry})) == [
        *("--out", "/tmp/x", "-r", "0.5", "--deep.key", "3", "--loud", "--many", "1", "2"),
        "--always",
    ]


def test_the_folder_of_results_is_the_jobs_where_the_spec_has_no_field_for_it(made: Made) -> None:
    skill = made({"go": {"command": "tool {results_dir}/x"}}, {"go": {"a": 1}})
    plan = skill.plan("go")
    assert plan.launch["command"][1] == f"{plan.job_dir}/x"


def test_what_is_nested_in_an_option_is_json(made: Made) -> None:
    template = {"stages": [{"size": [3, 4], "free": None}, {"size": []}], "betas": [0.9, 1]}
    skill = made({"go": {"command": "tool", "mode": "args"}}, {"go": template})
    nested = ['{"size": [3, 4], "free": null}', '{"size": []}']
    assert words(skill) == ["--stages", *nested, "--betas", "0.9", "1"]


def test_the_folder_of_a_file_that_a_job_writes_is_there(made: Made) -> None:
    entry = {"command": ["sh", "-c", "echo x > {go.onnx_file}"]}
    skill = made({"go": entry}, spec_params={"go": {"go.onnx_file": "create_onnx_file"}})
    job = skill.create_job("go").wait(30)
    assert (job.folder / "go" / "model.onnx").read_text() == "x\n"


def test_a_command_may_be_a_list_of_words_and_is_nothing_else(made: Made, tmp_path: Path) -> None:
    skill = made(
        {
            "go": {"command": ["tool", "a b", "{config_path}"]},
            "odd": {"command": {"tool": 1}},
            "none": None,
        }
    )
    assert words(skill)[0] == "a b"
    with pytest.raises(SpecError, match="a line, or a list of words"):
        skill.plan("odd")
    with pytest.raises(SpecError, match="names no command"):
        skill.plan("none")


@pytest.mark.parametrize(
    ("command", "fails"),
    [
        ("false | cat", True),
        ("echo {word} | false | cat", True),
        ("true | cat", False),
        ("false || echo 'a | b'", False),
    ],
)
@pytest.mark.parametrize("how", ["shell: true", "sh -c", "bash -c", "list"])
def test_a_command_that_fails_inside_a_pipeline_is_a_failure(
    made: Made, command: str, fails: bool, how: str
) -> None:
    quoted = command.replace("'a | b'", "x")
    entry: dict[str, Any] = {"command": f'{how} "{quoted}"'}
    if how == "shell: true":
        entry = {"command": command, "shell": True}
    elif how == "list":
        entry = {"command": ["bash", "-c", command]}
    plan = made({"go": entry}, {"go": {"word": "a b"}}).plan("go")
    ran = subprocess.run(plan.launch["command"], stdout=subprocess.DEVNULL)
    assert bool(ran.returncode) == fails


def test_without_bash_a_pipeline_runs_and_says_what_is_not_seen(made: Made, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    for name in ("sh", "cat", "false"):
        (tmp_path / "bin" / name).symlink_to(str(shutil.which(name)))
    plan = made({"go": {"command": "false | cat", "shell": True}}).plan("go")
    ran = subprocess.run(
        plan.launch["command"], env={"PATH": f"{tmp_path}/bin"}, capture_output=True, text=True
    )
    assert (ran.returncode, "no bash here" in ran.stderr) == (0, True)


def test_the_command_of_a_plan_can_be_copied_and_its_folder_is_said(made: Made) -> None:
    plan = made({"go": {"command": ["tool", "a b", "$x"]}}).plan("go")
    assert plan.to_dict()["command"] == "tool 'a b' '$x'"
    assert plan.to_dict()["cwd"] == str(Path.cwd())


def test_a_command_of_several_lines_is_shown_as_it_is(made: Made) -> None:
    entry = {"command": "echo begin\nfor i in 1 2; do\n  echo $i\ndone", "shell": True}
    plan = made({"go": entry}, {"go": {}}).plan("go")
    shown = plan_text(plan.to_dict())
    assert "begin\nfor i in 1 2; do\n  echo $i\ndone" in shown


def test_what_a_runner_reports_before_it_fails_is_the_reason(made: Made) -> None:
    line = json.dumps({"status": "FAILURE", "message": "no lamp in the room"})
    entry = {
        "command": f"echo first; echo '{line}' > $MAE_JOB_DIR/status.json; exit 3",
        "shell": True,
    }
    job = made({"go": entry}, {"go": {}}).create_job("go")
    with pytest.raises(MaeError, match="exit code 3: no lamp in the room"):
        job.wait(timeout=60)


@pytest.mark.parametrize("mode", ["command", "args"])
def test_braces_in_a_value_are_its_own(made: Made, mode: str) -> None:
    entry: dict[str, Any] = {"command": "tool --note {note} {job_id}"}
    if mode == "args":
        entry = {"command": "tool {job_id}", "mode": "args", "args": {"note": "note"}}
    skill = made({"go": entry}, {"go": {"note": "x"}})
    plan = skill.plan("go", spec_overrides={"note": "{job_dir}/{job_id}/{python}"})
    command = plan.launch["command"]
    assert "{job_dir}/{job_id}/{python}" in command and plan.job_id in command


def test_an_item_of_a_list_is_no_option(made: Made) -> None:
    entry = {"command": "tool", "mode": "args", "args": {"layers": "layers"}}
    skill = made({"go": entry}, {"go": {"layers": ["a", "b"]}})
    assert words(skill) == ["--layers", "a", "b"]
    with pytest.raises(SpecError, match="would be read as an option") as caught:
        skill.plan("go", spec_overrides={"layers": ["--verbose", "b"]})
    assert caught.value.field == "layers" and caught.value.got == "--verbose"
    skill.plan("go", spec_overrides={"layers": ["-1.5", "-"]})
    assert words(skill, spec_overrides={"layers": ["--verbose"]}) == ["--layers=--verbose"]


def test_a_value_behind_a_short_option_is_no_option(made: Made) -> None:
    entry = {"command": "tool", "mode": "args", "args": {"-n": "n"}}
    skill = made({"go": entry}, {"go": {"n": "x"}})
    assert words(skill) == ["-n", "x"]
    with pytest.raises(SpecError, match="would be read as an option"):
        skill.plan("go", spec_overrides={"n": "--verbose"})


@pytest.mark.parametrize(
    ("entry", "refused"),
    [
        ({"command": "printf {note} {more} x | cat", "shell": True}, {"more": "a[$(id)]"}),
        ({"command": "{note} -c {more}"}, {"note": "/bin/sh", "more": "id; true"}),
        ({"command": "{note} {more}", "shell": True}, {"note": "sh", "more": "-c; id"}),
    ],
)
def test_a_value_beside_a_value_that_chooses_what_it_means_is_plain(
    made: Made, entry: dict[str, Any], refused: dict[str, str]
) -> None:
    skill = made({"go": entry}, {"go": {"note": "x", "more": "y"}})
    skill.plan("go")
    with pytest.raises(SpecError, match="could be read as"):
        skill.plan("go", spec_overrides=refused)


def test_values_in_a_script_of_a_list_are_its_arguments(made: Made) -> None:
    entry = {"command": ["bash", "-c", "echo {word}"]}
    plan = made({"go": entry}, {"go": {"word": "$(touch /x); a"}}).plan("go")
    assert plan.launch["command"][2:] == ['echo "${1}"', "sh", "$(touch /x); a"]


@pytest.mark.parametrize("script", ["/usr/bin/env", "../bundle/../other.py"])
def test_a_script_outside_the_bundle_is_refused(made: Made, script: str) -> None:
    skill = made({"go": {"execution": {"type": "python_script", "script": script}}})
    with pytest.raises(SpecError, match="outside the bundle"):
        skill.plan("go")


def test_a_mandatory_input_that_nothing_gives_is_an_error_and_a_need(made: Made) -> None:
    entry = {
        "command": "tool {config_path}",
        "inputs": {
            "data.x": {"type": "file"},
            "data.y": {"type": "file", "optional": True},
            "go.checkpoint": {"type": "file"},
            "go.weights": {"type": "file"},
        },
    }
    mapped = {"go": {"go.checkpoint": "parent_model", "go.weights": "ptm"}}
    skill = made({"go": entry}, {"go": {"data": {"x": ""}, "go": {}}}, spec_params=mapped)
    with pytest.raises(DataError) as caught:
        skill.plan("go")
    said = str(caught.value)
    assert "data.x: go needs this input" in said
    assert "go.checkpoint=PATH, or --parent JOB" in said
    assert "data.y" not in said
    here, file = str(skill.bundle.root), str(skill.bundle.root / "references" / "skill_info.yaml")
    plan = skill.plan("go", spec_overrides={"data.x": file, "go.checkpoint": here})
    assert [item.got for item in plan.warnings if item.field == "go.weights"] == [["go.weights"]]
    said = [str(item) for item in plan.warnings if item.field == "go.checkpoint"]
    assert "this is a folder" in said[0]  # a model may be one to its runner
    assert score(skill.bundle)["actions"]["go"]["needs"] == ["--parent → go.checkpoint", "data.x"]


def test_an_item_of_a_list_that_stays_open_is_refused(made: Made, tmp_path: Path) -> None:
    template = {"data": {"sources": [{"folder": "???", "weight": 1}], "other": [{"x": "???"}]}}
    rows = {
        "go": {"data.sources": {"source": "train_datasets", "mapping": {"folder": {"path": ""}}}}
    }
    skill = made({"go": {"command": "tool"}}, {"go": template}, data_sources=rows)
    with pytest.raises(SpecError) as caught:
        skill.plan("go")
    assert [problem.field for problem in caught.value.problems] == [
        "data.other[0].x",
        "data.sources",
    ]
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "file").touch()
    plan = skill.plan(
        "go", train_datasets=str(tmp_path / "d"), spec_overrides={"data.other[0].x": 1}
    )
    assert plan.spec["data"]["sources"] == [{"folder": f"{tmp_path}/d", "weight": 1}]


def test_what_only_other_actions_read_need_not_be_given(made: Made) -> None:
    template = {"data": {"train": {"folder": "???"}, "test": {"folder": "???"}, "size": "???"}}
    rows = {
        "go": {"data.train.folder": {"source": "train_datasets"}},
        "test": {"data.test.folder": {"source": "eval_dataset"}},
    }
    entry = {"command": "tool {config_path}"}
    skill = made({"go": entry, "test": entry}, {"go": template}, data_sources=rows)
    with pytest.raises(MaeError) as caught:
        skill.plan("go")
    assert {one.field for one in caught.value.problems} == {"data.train.folder", "data.size"}


def test_a_key_that_nothing_knows_is_named_with_the_near_one(made: Made) -> None:
    template = {"train": {"optim": {"lr": 0.1}, "free": {}}}
    skill = made({"go": {"command": "tool {config_path} {word}"}}, {"go": template})
    asked = {"train.optim.lrr": 1, "train.free.any": 2, "train.optim.lr": 3, "word": "x"}
    asked["train.optim.bogus"] = 4
    (said,) = [one for one in skill.plan("go", spec_overrides=asked).notices if "knows" in one]
    assert said.endswith(
        "knows it: train.optim.bogus, train.optim.lrr (did you mean train.optim.lr?)"
    )
    whole = {"train": {"optim": {"lr": 1}, "free": {}}, "word": "x"}
    assert not any("knows" in one for one in skill.plan("go", spec=whole).notices)


def test_key_defaults_without_a_place_are_named_and_not_put_in(made: Made) -> None:
    skill = made(
        {"go": {"command": "tool {config_path}"}, "bare": {"command": "tool {config_path}"}},
        {"go": {"data": {"list": [{"p": 1}]}, "x": 1}},
        key_defaults={
            "data.list[0].p": 2,
            "data.list[1].p": 3,
            "data.list[-1].p": 4,
            "data.new.q": 5,
            "a..b": 6,
            "": 7,
            "x.y": 8,
        },
    )
    plan = skill.plan("go")
    assert plan.spec == {"data": {"list": [{"p": 2}], "new": {"q": 5}}, "x": 1}
    (said,) = [one for one in plan.notices if "key_defaults" in one]
    assert said.endswith("'data.list[1].p', 'data.list[-1].p', 'a..b', '', 'x.y'")
    assert any("'data.list[0].p'" in one for one in skill.plan("bare").notices)


@pytest.mark.parametrize("text", ["a: 1\na: 2\n", "a: {b: ???}\n", "a: !!python/name:os.system\n"])
def test_a_template_that_cannot_be_read_is_refused_by_its_name(made: Made, text: str) -> None:
    skill = made({"go": {"command": "tool {config_path}"}}, {"go": text})
    with pytest.raises(SpecError, match="a file of the bundle cannot be read") as caught:
        skill.plan("go")
    assert caught.value.field == "spec_template_go.yaml"
    assert score(skill.bundle)["works"] == 0


def test_a_skill_info_that_is_no_text_is_refused_by_its_name(made: Made) -> None:
    skill = made({"go": {"command": "tool"}})
    (Path(skill.bundle.root) / "references" / "skill_info.yaml").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(SpecError) as caught:
        Bundle.load(skill.bundle.root)
    assert caught.value.field == "skill_info.yaml"
    assert "it is UTF-16" in str(caught.value.hint)


@pytest.mark.parametrize(
    "row",
    [
        {"path": "../../etc"},
        {"path_from_format": {"*": ["ok", "/etc/passwd"]}},
        {"mapping": {"a": {"b": {"path": "ok"}, "c": {"path": "x://y"}}}},
    ],
)
def test_validate_refuses_the_data_paths_that_no_plan_takes(made: Made, row: Any) -> None:
    rows = {"go": {"data.x": {"source": "train_datasets", **row}}}
    skill = made({"go": {"command": "tool {config_path}"}}, data_sources=rows)
    (problem,) = score(skill.bundle)["actions"]["go"]["problems"]
    assert problem["field"] == "data_sources.data.x"


def test_validate_scores_whatever_bundle_a_plan_takes(made: Made) -> None:
    skill = made({"go": {"command": "tool {config_path}"}, "bad": {"command": "a | b"}})
    schema = {"type": "object", "properties": {"x": {"type": "integer"}}, "default": {"x": 1}}
    (Path(skill.bundle.root) / "schemas").mkdir()
    (Path(skill.bundle.root) / "schemas" / "go.schema.json").write_text(json.dumps(schema))
    assert not skill.bundle.is_foreign
    ran = CliRunner().invoke(cli, ["skill", "validate", str(skill.bundle.root), "--json"])
    document = json.loads(ran.stdout)
    assert (ran.exit_code, document["works"], document["of"]) == (2, 1, 2)
    deep = '{"properties": ' * 3000 + "{}" + "}" * 3000
    (Path(skill.bundle.root) / "schemas" / "go.schema.json").write_text(deep)
    assert score(skill.bundle)["of"] == 2


@pytest.mark.parametrize(
    ("kind", "follows"),
    [
        ("checkpoint", ["check", "export"]),
        ("onnx", ["build"]),
        ("engine", []),
        ("none", []),
    ],
)
def test_the_next_actions_are_those_that_take_what_the_job_left(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, follows: list[str]
) -> None:
    entry = {"command": "python3 {bundle_dir}/none.py"}
    models = {"check": "checkpoint", "export": "checkpoint", "build": "onnx_file"}
    skill = made(
        dict.fromkeys(("go", *models), entry),
        spec_params={name: {f"{name}.{last}": "parent_model"} for name, last in models.items()},
    )
    job = skill.create_job(skill.plan("go"))
    names = {"checkpoint": "m.pth", "onnx": "m.onnx", "engine": "m.engine", "none": "m.csv"}
    (job.folder / "go").mkdir(exist_ok=True)
    (job.folder / "go" / names[kind]).touch()
    assert [step.action for step in answers.after(job)] == follows


def test_the_placeholders_in_the_values_of_options_are_filled(made: Made) -> None:
    args = {
        "--out": "{results_dir}",
        "--log": "{results_dir}/{train.lr}.txt",
        "--lr": "{train.lr}",
        "--form": "{epoch:02d}-{loss}",
        "--short": "{rate}",
        "--id": "{job_id}",
    }
    entry = {"command": "tool", "mode": "args", "args": args}
    short = {"rate": "train.lr"}
    skill = made({"go": entry}, {"go": {"train": {"lr": 0.5}}}, spec_shorthand_keys=short)
    plan = skill.plan("go")
    given = plan.launch["command"][1:]
    found = dict(zip(given[::2], given[1::2], strict=True))
    assert found == {
        "--out": plan.job_dir,
        "--log": f"{plan.job_dir}/0.5.txt",
        "--lr": "0.5",
        "--form": "{epoch:02d}-{loss}",
        "--short": "0.5",
        "--id": plan.job_id,
    }


def test_an_option_is_left_out_and_said_where_a_field_in_its_text_is_empty(made: Made) -> None:
    args = {"--goal": "reg:{loss.kind}", "--all": "{loss}", "--rate": "x={lr}"}
    template = {"loss": {"kind": ""}, "lr": 1}
    skill = made({"go": {"command": "tool", "mode": "args", "args": args}}, {"go": template})
    schema = {"properties": {"loss": {"properties": {"kind": {"type": "string"}}}, "lr": {}}}
    folder = skill.bundle.root / "schemas"
    folder.mkdir()
    (folder / "go.schema.json").write_text(json.dumps(schema))
    plan = Skill(skill.bundle.root).plan("go", automl_policy="off")
    assert plan.launch["command"][1:] == ["--all", "{loss}", "--rate", "x=1"]
    assert "--goal is left out: loss.kind has no value" in plan.notices
    section = "--all: {loss} is a section and no field: it is handed on as it stands"
    assert section in plan.notices

    filled = Skill(skill.bundle.root).plan("go", spec_overrides={"loss.kind": "l2"})
    assert filled.launch["command"][1:3] == ["--goal", "reg:l2"]
    assert not any("did you mean the field" in one for one in filled.notices)


def test_a_section_among_the_defaults_of_options_is_its_fields(made: Made) -> None:
    args = {"--depth": "tree.depth"}
    entry = {"command": "tool", "mode": "args", "args": args, "defaults": {"tree": {"depth": 3}}}
    assert words(made({"go": entry})) == ["--depth", "3"]


def test_an_error_in_the_words_of_a_script_names_them(made: Made, tmp_path: Path) -> None:
    execution = {"type": "python_script", "script": "run.py", "args": ["{train.lrr}"]}
    skill = made({"go": {"execution": execution}}, {"go": {"train": {"lr": 1}}})
    (skill.bundle.root / "run.py").write_text("")
    with pytest.raises(SpecError, match="a field that is not given") as caught:
        skill.plan("go")
    assert caught.value.field == "actions.go.execution.args"


def test_flags_are_a_list_of_fields(made: Made) -> None:
    entry = {"command": "tool", "mode": "args", "flags": {"--loud": "train.loud"}}
    with pytest.raises(SpecError) as caught:
        made({"go": entry}, {"go": {"train": {"loud": True}}}).plan("go")
    assert caught.value.field == "actions.go.flags"
    assert caught.value.expected == "a list of fields, such as [train.verbose]"


def test_a_mandatory_input_of_a_second_source_that_is_not_given_is_an_error(
    made: Made, tmp_path: Path
) -> None:
    inputs = {"data.list[0].file": {"type": "file"}, "data.list[1].file": {"type": "file"}}
    row = {
        "source": "train_datasets",
        "multiple_sources": True,
        "mapping": {"file": {"path": "a.txt"}},
    }
    skill = made(
        {"go": {"command": "tool {config_path}", "inputs": inputs}},
        {"go": {"data": {"list": [{"file": "???"}]}}},
        data_sources={"go": {"data.list": row}},
    )
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_text("")
    one = str(tmp_path / "in")
    with pytest.raises(DataError, match="needs this input") as caught:
        skill.plan("go", train_datasets=[one])
    assert caught.value.field == "data.list[1].file"
    assert skill.plan("go", train_datasets=[one, one]).spec["data"]["list"][1:]


def test_validate_says_a_notice_of_the_whole_bundle_once(made: Made) -> None:
    entry = {"command": "tool {config_path}"}
    skill = made({"go": entry, "stop": entry}, {"go": {"a": 1}, "stop": {"a": 1}}, odd_key=1)
    (skill.bundle.root / "schemas").mkdir()
    (skill.bundle.root / "schemas" / "manifest.json").write_text("{")
    said = CliRunner().invoke(cli, ["skill", "validate", str(skill.bundle.root)]).output
    assert "not read in skill_info: odd_key" in said
    assert "lists them" not in said
    assert said.count("manifest.json is not used") == 1


def test_an_option_may_have_the_name_of_a_section(made: Made) -> None:
    args = {"--data": "data.train", "--go": 3, "--more": "{data.train}/x"}
    entry = {"command": "tool", "mode": "args", "args": args}
    template = {"data": {"train": "a", "test": "b"}, "go": {"lr": 1}, "more": {"x": 1}}
    skill = made({"go": entry}, {"go": template})
    given = words(skill)
    assert dict(zip(given[::2], given[1::2], strict=True)) == {
        "--data": "a",
        "--go": "3",
        "--more": "a/x",
    }
    assert {"c", "c/x"} <= {*words(skill, spec_overrides={"data.train": "c"})}


@pytest.mark.parametrize("place", ["{results_dir}", "{job_dir}"])
def test_a_result_is_named_by_the_placeholder_of_its_folder_too(made: Made, place: str) -> None:
    entry = {"command": ["sh", "-c", "echo 1 > {job_dir}/out.json"], "result": f"{place}/out.json"}
    job = made({"go": entry}).create_job("go").wait(30)
    assert job.state == "COMPLETE"


def test_an_option_that_is_named_after_its_field_has_its_value(made: Made) -> None:
    entry = {"command": "tool", "mode": "args", "args": {"--note": "note", "--word": "word"}}
    skill = made({"go": entry}, {"go": {"note": "hello"}})
    assert words(skill) == ["--note", "hello", "--word", "word"]
    assert words(skill, spec_overrides={"note": "other"}) == ["--note", "other", "--word", "word"]


def test_an_option_whose_text_is_a_misspelled_field_is_named(made: Made) -> None:
    entry = {"command": "tool", "mode": "args", "args": {"--lr": "train.lrr"}}
    plan = made({"go": entry}, {"go": {"train": {"lr": 0.5, "l2": 1}}}).plan("go")
    assert any("(did you mean train.lr?)" in one for one in plan.notices)


def test_a_default_of_a_misspelled_field_is_named_beside_options(made: Made) -> None:
    entry = {"command": "tool", "mode": "args", "defaults": {"train.ratte": 3, "train.new": 1}}
    plan = made({"go": entry}, {"go": {"train": {"rate": 1}}}).plan("go")
    (said,) = [one for one in plan.notices if "defaults of fields" in one]
    assert "defaults.train.ratte (did you mean train.rate?)" in said
    assert "train.new" not in said


PROPERTIES = {
    "lr": {"type": "number", "default": 0.1},
    "epochs": {"type": "integer"},
    "verbose": {"type": "boolean", "default": False},
    "quiet": {"type": "boolean"},
    "model": {
        "type": "object",
        "default": {"depth": 4},
        "properties": {"depth": {"type": "integer", "default": 2}, "width": {"default": 8}},
    },
    "ema": {"default": None, "properties": {"decay": {"default": 0.9}}},
}


def with_schema(skill: Skill, **more: Any) -> Skill:
    (skill.bundle.root / "schemas").mkdir()
    schema = {"type": "object", "properties": PROPERTIES, **more}
    (skill.bundle.root / "schemas" / "go.schema.json").write_text(json.dumps(schema))
    return Skill(skill.bundle.root)


@pytest.mark.parametrize("text", ["{name}", "{{{name}}}"])
def test_a_default_of_a_field_that_an_option_is_named_after_reaches_it(
    made: Made, text: str
) -> None:
    args = {f"--{name}": text.format(name=name) for name in ("lr", "epochs")}
    entry = {"command": "tool", "mode": "args", "args": args, "defaults": {"lr": 0.5, "epochs": 3}}
    skill = with_schema(made({"go": entry}))
    assert words(skill) == ["--lr", "0.5", "--epochs", "3"]
    assert words(skill, spec_overrides={"lr": 2}) == ["--lr", "2", "--epochs", "3"]


def test_an_option_whose_field_has_no_value_is_left_out(made: Made) -> None:
    args = {"--epochs": "epochs", "--lr": "lr"}
    skill = with_schema(made({"go": {"command": "tool", "mode": "args", "args": args}}))
    assert words(skill) == ["--lr", "0.1"]
    assert words(skill, spec_overrides={"epochs": 3}) == ["--lr", "0.1", "--epochs", "3"]


def test_a_flag_that_is_a_field_is_given_where_that_is_true(made: Made) -> None:
    flags = ["verbose", "quiet", "loud"]
    entry = {"command": "tool", "mode": "args", "args": {"--lr": "lr"}, "flags": flags}
    skill = with_schema(made({"go": entry}))
    assert words(skill) == ["--lr", "0.1", "--loud"]
    more = words(skill, spec_overrides={"quiet": True, "verbose": True})
    assert sorted(more[2:]) == ["--loud", "--quiet", "--verbose"]


@pytest.mark.parametrize("defaults", [None, {"epochs": 3}])
def test_the_defaults_of_fields_count_where_neither_template_nor_schema_has_any(
    made: Made, defaults: Any
) -> None:
    entry = {"command": "tool {config_path}", **({"defaults": defaults} if defaults else {})}
    plan = with_schema(made({"go": entry})).plan("go")
    own = {"lr": 0.1, "verbose": False, "model": {"depth": 4, "width": 8}}
    assert plan.spec == own | (defaults or {})


def test_the_defaults_of_a_template_or_a_whole_schema_stand_alone(made: Made) -> None:
    skill = with_schema(made({"go": {"command": "tool {config_path}"}}, {"go": {"epochs": 9}}))
    assert skill.plan("go").spec == {"epochs": 9}
    (skill.bundle.root / "references" / "spec_template_go.yaml").unlink()
    (skill.bundle.root / "schemas" / "go.schema.json").unlink()
    (skill.bundle.root / "schemas").rmdir()
    skill = with_schema(skill, default={"lr": 0.7})
    assert skill.plan("go").spec == {"lr": 0.7}


def test_an_input_that_is_misspelled_in_all_tables_is_an_error_of_the_bundle(made: Made) -> None:
    entry = {"command": "tool {config_path}", "inputs": {"go.chekpoint": {"type": "file"}}}
    rows = {"go": {"go.chekpoint": "parent_model"}}
    skill = made({"go": entry}, {"go": {"go": {"checkpoint": None}}}, spec_params=rows)
    with pytest.raises(SpecError, match="neither its template nor its schema has") as caught:
        skill.plan("go")
    assert "did you mean go.checkpoint?" in str(caught.value.hint)
    told = score(skill.bundle)["actions"]["go"]
    assert not told["works"]
    assert [one["got"] for one in told["problems"]] == ["go.chekpoint"]


def test_a_template_that_is_missing_in_the_folder_of_references_is_called_missing(
    made: Made,
) -> None:
    entry = {"command": "tool {config_path}"}
    skill = made({"go": entry}, spec_templates={"go": "../references/e.yml"})
    with pytest.raises(MaeError, match="no such spec template") as caught:
        skill.plan("go")
    assert caught.value.field == "spec_templates.go"
    (skill.bundle.root / "references" / "e.yml").write_text("a: 1\n")
    assert Skill(skill.bundle.root).plan("go").spec == {"a": 1}
    outside = made_again(skill, "../../e.yml")
    with pytest.raises(MaeError, match="outside its folder"):
        outside.plan("go")


def made_again(skill: Skill, template: str) -> Skill:
    info = {**skill.bundle.info, "spec_templates": {"go": template}}
    path = skill.bundle.root / "references" / "skill_info.yaml"
    path.write_text(dump_yaml({**info, "spec_params": {}}))
    return Skill(skill.bundle.root)


def test_a_name_of_pretrained_weights_is_handed_on_and_said(made: Made) -> None:
    entry = {"command": "tool {config_path}"}
    rows = {"go": {"train.pretrained": "ptm"}}
    skill = made({"go": entry}, {"go": {"train": {"pretrained": None}}}, spec_params=rows)
    plan = skill.plan("go", ptm="resnet50")
    assert plan.spec["train"]["pretrained"] == "resnet50"
    assert any("there is no file resnet50: train.pretrained gets it" in one for one in plan.notices)
    for path in ("weights/resnet50", "resnet50.pth"):
        with pytest.raises(MaeError, match="the pretrained model does not exist"):
            skill.plan("go", ptm=path)


def test_an_empty_list_or_text_leaves_its_option_out(made: Made) -> None:
    args = {"--tags": "tags", "--note": "note"}
    entry = {"command": "tool", "mode": "args", "args": args}
    skill = made({"go": entry}, {"go": {"tags": ["a", "b"], "note": "x"}})
    assert words(skill) == ["--tags", "a", "b", "--note", "x"]
    assert words(skill, spec_overrides={"tags": [], "note": ""}) == []


def test_a_reference_in_a_value_is_no_placeholder_of_a_command(made: Made) -> None:
    template = {"results_dir": "/r", "tail": "${results_dir}/x", "place": "{job_dir}/y"}
    plan = made({"go": {"command": "tool {config_path}"}}, {"go": template}).plan("go")
    (said,) = [one for one in plan.notices if "which no spec fills" in one]
    assert "place: {job_dir}/y" in said and "tail" not in said


def test_data_that_a_person_emptied_is_not_told_to_be_given_again(
    made: Made, tmp_path: Path
) -> None:
    row = {"source": "train_datasets", "list": True}
    rows = {"go": {"dataset.train": row, "dataset.masks": row}}
    entry = {"command": "tool {config_path}"}
    template = {"dataset": {"train": None, "masks": None}}
    skill = made({"go": entry}, {"go": template}, data_sources=rows)
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a.txt").write_text("a")
    given = str(tmp_path / "d")
    assert skill.plan("go", train_datasets=given).spec["dataset"]["train"] == [given]
    with pytest.raises(DataError, match="needs data") as caught:
        skill.plan("go", train_datasets=given, spec_overrides={"dataset.train": []})
    assert "leave dataset.train out" in str(caught.value.hint)


def test_a_value_in_the_place_of_an_item_that_is_a_section_names_the_field_of_the_item(
    made: Made,
) -> None:
    entry = {"command": "tool {config_path}"}
    skill = made({"go": entry}, {"go": {"ds": [{"root": "/a"}]}})
    with pytest.raises(MaeError) as caught:
        skill.plan("go", spec_overrides={"ds[0]": "x"})
    text = str(caught.value)
    assert "ds[0].root" in text and "item" not in text


def test_a_placeholder_that_is_a_section_is_called_one(made: Made) -> None:
    skill = made({"go": {"command": "echo {a}", "defaults": {"a": {"b": 1, "c": 2}}}})
    with pytest.raises(SpecError, match="names a section") as caught:
        skill.plan("go")
    assert caught.value.expected == "a field of it: {a.b}, {a.c}"
