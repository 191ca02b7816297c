"""What a bundle says and no run could mean is refused by its key, or named, in the score of the
bundle as in a plan.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mae_sdk import Skill
from mae_sdk.jobs import records
from mae_sdk.plan.command import command_of
from mae_sdk.plan.score import score
from mae_skill.errors import JobFailedError, MaeError, SpecError, UsageError
from mae_skill.reader import dump_yaml, read_spec

Made = Callable[..., Skill]


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Made:
    """A bundle of one action ``train``: its entry, template, schema and other tables."""
    monkeypatch.setenv("MAE_RESULTS_ROOT", str(tmp_path / "results"))
    (tmp_path / "data").mkdir()
    for name in ("a.csv", "w.pth"):
        (tmp_path / "data" / name).write_text("a")

    def write(entry: Any = None, template: Any = None, schema: Any = None, **more: Any) -> Skill:
        folder = tmp_path / "bundle"
        for name in ("references", "schemas"):
            (folder / name).mkdir(parents=True)
        entry = {"command": "tool -e {config_path}", **(entry or {})}
        info = {"name": "small", "actions": {"train": entry}, **more}
        (folder / "references" / "skill_info.yaml").write_text(dump_yaml(info))
        if template is not None:
            text = dump_yaml(template)
            (folder / "references" / "spec_template_train.yaml").write_text(text)
        if schema is not None:
            (folder / "schemas" / "train.schema.json").write_text(json.dumps(schema))
        return Skill(folder)

    return write


def refused(skill: Skill, **options: Any) -> SpecError:
    """The error of a plan, which the score of the bundle has too."""
    with pytest.raises(SpecError) as caught:
        skill.plan("train", **options)
    told = score(skill.bundle)["actions"]["train"]["problems"]
    assert (caught.value.field, caught.value.message) in [(a["field"], a["message"]) for a in told]
    assert caught.value.expected and caught.value.hint
    return caught.value


def said(skill: Skill, words: str, **options: Any) -> bool:
    """Whether a plan and the score both say something."""
    report = score(skill.bundle)
    told = [*report["actions"]["train"]["notices"], *report["unread"].get("skill_info", ())]
    plan = skill.plan("train", **options)
    found = [any(words in one for one in listed) for listed in (told, plan.notices)]
    assert found[0] == found[1], (told, plan.notices)
    return found[0]


# Placeholders and options.


@pytest.mark.parametrize(
    ("args", "got", "near"),
    [
        ({"--lr": "{lrr}"}, "{lrr}", None),
        ({"--loss": "{losss}"}, "{losss}", "{loss}"),
        ({"--lr": "{train.lrr}"}, "{train.lrr}", "{train.lr}"),
        ({"--lr": "a/{train.rate}/b"}, "{train.rate}", None),
        ({"--lr": "{lr}"}, "{lr}", None),
        ({"--a": "{b}/x", "--b": "{job_id}"}, "{b}", None),
        ([{"name": "--lr", "default": "{train.lrr}"}], "{train.lrr}", "{train.lr}"),
        ({"--lr": {"default": "{train.lrr}"}}, "{train.lrr}", "{train.lr}"),
        ({"--lr": "{results_dir}/{train.lrr}"}, "{train.lrr}", "{train.lr}"),
    ],
    ids=str,
)
def test_a_placeholder_of_an_option_that_no_field_fills_is_refused_with_the_near_one(
    made: Made, args: Any, got: str, near: str | None
) -> None:
    skill = made(
        {"command": "tool", "mode": "args", "args": args}, {"train": {"lr": 0.5}, "loss": 1}
    )
    error = refused(skill)
    option = args[0]["name"] if isinstance(args, list) else next(iter(args))
    assert error.field == f"actions.train.args.{option}"
    assert error.got == got
    assert near is None or f"did you mean {near}?" in str(error.hint)


def test_a_place_of_the_job_in_a_value_that_nothing_fills_is_named(made: Made) -> None:
    entry = {"command": "tool", "mode": "args", "args": {"--lr": "lr", "--log": "{job_dir}/log"}}
    entry["defaults"] = {"out": "{job_dir}/x"}
    rows = {"train": {"place": "assign_const_value,{results_dir}/y"}}
    skill = made(entry, {"lr": 1, "form": "{epoch}", "place": ""}, spec_params=rows)
    assert said(skill, "no spec fills: place: {results_dir}/y, out: {job_dir}/x; ${results_dir}")


def test_a_placeholder_of_an_option_is_filled_from_its_own_field(made: Made) -> None:
    args = {"lr": "{lr}", "--deep": "{train.lr}/{job_id}", "--of": "{short}", "--as": "{loss:}"}
    skill = made(
        {"command": "tool", "mode": "args", "args": args},
        {"lr": 0.25, "train": {"lr": 0.5}},
        spec_shorthand_keys={"short": "train.lr"},
    )
    assert score(skill.bundle)["works"] == 1
    plan = skill.plan("train")
    assert plan.launch["command"][1:] == [
        *("--lr", "0.25", "--deep", f"0.5/{plan.job_id}", "--of", "0.5", "--as", "{loss:}"),
    ]


def test_a_bundle_that_lists_no_field_needs_those_that_its_options_name(made: Made) -> None:
    skill = made({"command": "tool", "mode": "args", "args": {"--rate": "{train.lr}"}})
    found = score(skill.bundle)["actions"]["train"]
    assert (found["works"], found["needs"]) == (True, ["train.lr"])
    with pytest.raises(SpecError, match="no field of train fills"):
        skill.plan("train")
    plan = skill.plan("train", spec_overrides={"train.lr": 2})
    assert plan.launch["command"][1:3] == ["--rate", "2"]


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"entry": {"measure_command": "tool {confg_path}"}}, "actions.train.measure_command"),
        ({"warm_command": "tool {socket} {job_dir}"}, "warm_command"),
    ],
)
def test_a_placeholder_of_another_command_that_nothing_fills_is_refused(
    made: Made, more: Any, field: str
) -> None:
    assert refused(made(**{"template": {"train": {"lr": 1}}, **more})).field == field


@pytest.mark.parametrize("value", [0.1, 3, 0, "yes", [1], "true"], ids=str)
def test_a_flag_with_a_value_is_refused(made: Made, value: Any) -> None:
    entry = {"command": "tool", "mode": "args", "args": {"--lr": "train.lr"}, "flags": ["amp"]}
    skill = made(entry, {"train": {"lr": 0.5}, "amp": value})
    error = refused(skill)
    assert (error.field, error.got) == ("amp", value)
    for right, there in ((True, True), (False, False), (None, False)):
        plan = skill.plan("train", spec_overrides={"amp": right})
        assert ("--amp" in plan.launch["command"]) == there


def test_a_flag_that_is_a_field_but_for_its_spelling_is_named(made: Made) -> None:
    entry = {"command": "tool", "mode": "args", "args": {"--lr": "lr"}, "flags": ["verbos", "all"]}
    skill = made(entry, {"lr": 1, "verbose": False})
    assert said(skill, "flags that name no field are always given: verbos (did you mean verbose?)")
    assert not said(skill, "always given: all")


# Words that a program executes.

EXECUTED = [
    "tar -xf a.tar --to-command={note}",
    "tar -xf a.tar --to-command {note}",
    "tar -xf a.tar --to-com={note}",
    "tar -xf a.tar --checkpoint=1 --checkpoint-action=exec={note}",
    "tar -I {note} -xf a.tar",
    "tar -cI {note} -f a.tar x",
    "tar -I{note} -xf a.tar",
    "tar --{note} -xf a.tar",
    "tar --use-compress-program={note} -xf a.tar",
    "bsdtar -xf a.tar --use-compress-program {note}",
    "find . -exec {note} ;",
    "find . -execdir {note} ;",
    "find . -ok {note} ;",
    "find . -name x -okdir {note} ;",
    "find . -exec sed {note} ;",
    "find . -exec tar --to-command={note} ;",
    "sort --compress-program={note} a",
    "sort --compress-prog {note} a",
    "split --filter={note} a",
    "xargs {note}",
    "xargs -I x {note}",
    "env -S {note}",
    "env --split-string={note}",
    "ssh -o ProxyCommand={note} host",
    "scp -o ProxyCommand={note} a host:b",
    "sftp -S {note} host",
    "rsync -e {note} a b",
    "git -c core.sshCommand={note} fetch",
    "git -c {note} fetch",
    "sed {note} a",
    "sed -e s/a/b/ -e {note} a",
    "awk {note} a",
    "parallel {note}",
    "wget --use-askpass={note} http://x",
    "zip a.zip b -T -TT {note}",
    "rg --pre {note} x",
    "sbatch --wrap={note}",
    "docker run --entrypoint={note} image",
    "mpirun --mca plm_rsh_agent {note} tool",
]


@pytest.mark.parametrize("line", EXECUTED)
@pytest.mark.parametrize("shell", [False, True])
def test_a_value_that_a_program_would_execute_must_be_plain(
    made: Made, line: str, shell: bool
) -> None:
    line = line.replace(";", "';'" if shell else "\\;")
    skill = made({"command": line, "shell": shell}, {"note": "x"})
    with pytest.raises(MaeError, match="could be read as code") as caught:
        command_of(skill.bundle, "train", {"note": "sh -c 'touch mark'"})
    assert (caught.value.field, caught.value.got) == ("note", "sh -c 'touch mark'")
    assert command_of(skill.bundle, "train", {"note": "gzip"})


@pytest.mark.parametrize(
    "line",
    [
        "tar -xf {note}",
        "tar -cf a.tar -- {note}",
        "find {note} -name x",
        "find . -name {note}",
        "find . -exec echo {note} +",
        "sort {note}",
        "sort --output={note} a",
        "docker run image --note {note}",
        "mpirun -n 2 tool --note={note}",
        "srun tool {note}",
    ],
)
def test_a_value_that_is_a_mere_argument_of_such_a_program_may_be_any(
    made: Made, line: str
) -> None:
    skill = made({"command": line}, {"note": "x"})
    assert "a b; c" in " ".join(command_of(skill.bundle, "train", {"note": "a b; c"}).words)


def test_the_options_of_a_program_that_runs_some_must_be_plain(made: Made) -> None:
    skill = made({"command": "tar -xf a.tar", "mode": "args"}, {"to-command": "gzip"})
    skill.plan("train")
    with pytest.raises(MaeError, match="could be read as code"):
        skill.plan("train", spec_overrides={"to-command": "touch mark"})


# Tables that contradict themselves, or say nothing.


@pytest.mark.parametrize(
    ("template", "schema", "more"),
    [
        (None, {"properties": {"train": {"properties": {"lr": {"type": "number"}}}}}, {}),
        ({"train": None, "a": 1}, None, {"spec_params": {"train": {"train.dir": "output_dir"}}}),
        ({"a": 1}, None, {"spec_shorthand_keys": {"lr": "train.lr"}}),
        ({"train": {"lr": 1}}, None, {}),
    ],
    ids=["schema", "mapping", "shorthand", "template"],
)
@pytest.mark.parametrize("value", [5, "text", [1]], ids=str)
def test_a_default_that_is_no_section_where_one_belongs_is_refused(
    made: Made, template: Any, schema: Any, more: Any, value: Any
) -> None:
    error = refused(made({"defaults": {"train": value}}, template, schema, **more))
    assert (error.field, error.got) == ("actions.train.defaults.train", value)
    assert "would replace a whole section: train holds " in error.message


def test_an_option_that_is_named_after_a_section_of_the_tables_keeps_its_value(made: Made) -> None:
    entry = {"command": "tool", "mode": "args", "args": {"--train": "a.csv"}}
    skill = made(entry, spec_shorthand_keys={"lr": "train.lr"}, gpu_spec_key="train.num_gpus")
    assert skill.plan("train").launch["command"][1:] == ["--train", "a.csv"]


@pytest.mark.parametrize("key", ["train.lr.x", "train.lr.x.y"])
def test_a_default_inside_a_value_is_refused_by_its_key_in_the_bundle(made: Made, key: str) -> None:
    error = refused(made({"defaults": {key: 5}}, {"train": {"lr": 0.5}}))
    assert (error.field, error.got) == (f"actions.train.defaults.{key}", 5)


def test_an_empty_section_of_defaults_takes_no_field_away(made: Made) -> None:
    plan = made({"defaults": {"train": {}}}, {"train": {"lr": 1}}).plan("train")
    assert plan.spec["train"] == {"lr": 1}


def test_a_shorthand_that_hides_a_field_is_named(made: Made) -> None:
    template = {"lr": 1, "train": {"lr": 2, "epochs": 3}}
    words = {"lr": "train.lr", "epochs": "train.epochs"}
    skill = made(None, template, spec_shorthand_keys=words)
    assert said(skill, "shorthands that hide a field of train of the same name: lr (it stands for")
    assert not said(skill, "epochs (it stands")


@pytest.mark.parametrize(
    ("word", "value"),
    [("minimum", "a"), ("maximum", [1]), ("valid_min", "0.1"), ("enum", "a"), ("minimum", True)],
)
def test_a_bound_of_a_schema_that_is_no_number_is_named(made: Made, word: str, value: Any) -> None:
    node = {"type": "number", word: value}
    schema = {"properties": {"train": {"type": "object", "properties": {"lr": node}}}}
    skill = made(None, {"train": {"lr": 1}}, schema)
    assert said(skill, f"hold no value of their kind: train.lr.{word}")


@pytest.mark.parametrize("value", [None, float("inf"), float("-inf"), 3])
def test_a_bound_that_is_open_is_not_named(made: Made, value: Any) -> None:
    node = {"type": "number", "maximum": value}
    schema = {"properties": {"train": {"type": "object", "properties": {"lr": node}}}}
    assert not said(made(None, {"train": {"lr": 1}}, schema), "no value of their kind")


def test_parameters_of_a_search_that_no_field_has_are_named(made: Made) -> None:
    node = {"type": "object", "properties": {"lr": {"type": "number"}}}
    schema = {"automl_default_parameters": ["nope.y"], "properties": {"train": node}}
    more = {"auto_recipe_parameters": ["nope.x", "train.lr"]}
    skill = made(None, {"train": {"lr": 1}}, schema, **more)
    assert said(skill, "auto_recipe_parameters[0]: nope.x (no action has this field)")
    assert not said(skill, "auto_recipe_parameters[1]")
    assert said(skill, "of the schema of train that are no field of it: nope.y")


def test_a_field_that_a_source_and_a_function_both_fill_is_named(
    made: Made, tmp_path: Path
) -> None:
    row = {"source": "train_datasets", "path": "a.csv", "optional": True}
    tables = {
        "data_sources": {"train": {"train.x": row}},
        "spec_params": {"train": {"train.x": "parent_model"}},
    }
    skill = made(None, {"train": {"x": None}}, **tables)
    assert said(skill, "data_sources and spec_params of train both fill: train.x (parent_model)")


@pytest.mark.parametrize(
    "more", [{"status": 7}, {"kpi": ["a"]}, {"entry": {"kpi": ["a"]}}], ids=str
)
def test_a_key_of_a_status_line_is_none_of_skill_info(made: Made, more: Any) -> None:
    skill = made(**{"template": {"train": {"lr": 1}}, **more})
    key = next(iter(more))
    assert said(skill, "actions.train.kpi" if key == "entry" else key)


@pytest.mark.parametrize(
    ("of_input", "of_data", "is_refused"),
    [
        ({"optional": False}, {"optional": True}, True),
        ({"optional": True}, {"optional": False}, True),
        ({"optional": True}, {"required": True}, True),
        ({}, {"optional": True}, False),
        ({"optional": True}, {}, False),
        ({"optional": False}, {"required": True}, False),
    ],
    ids=str,
)
def test_a_field_that_is_optional_in_one_table_and_not_in_another_is_refused(
    made: Made, tmp_path: Path, of_input: Any, of_data: Any, is_refused: bool
) -> None:
    rows = {"data.x": {"source": "train_datasets", "path": "a.csv", **of_data}}
    inputs = {"data.x": {"type": "file", **of_input}}
    skill = made({"inputs": inputs}, {"data": {"x": None}}, data_sources={"train": rows})
    if is_refused:
        assert refused(skill).field == "actions.train.inputs.data.x.optional"
        return
    skill.plan("train", train_datasets=str(tmp_path / "data"))
    if of_data != {"required": True}:
        skill.plan("train")


# A search that has nothing to vary.

LR = {"type": "number", "minimum": 0.01, "maximum": 1}


def searched(made: Made, entry: Any = None, **schema: Any) -> Skill:
    properties = {"train": {"type": "object", "properties": {"lr": LR, "wd": LR}}}
    entry = {"metric": "loss", "metric_direction": "minimize", **(entry or {})}
    template = {"train": {"lr": 0.1, "wd": 0.1}}
    return made(entry, template, {"properties": properties, **schema}, automl_enabled=True)


def test_a_search_by_default_without_a_parameter_is_a_plain_run_and_says_so(made: Made) -> None:
    skill = searched(made)
    about = score(skill.bundle)["actions"]["train"]
    assert (about["works"], about["automl"]) == (True, "nothing is left to search: a plain run")
    for policy in (None, "auto", True):
        plan = skill.plan("train", automl_policy=policy)
        assert plan.study is None and plan.policy.automl is False
        assert any(
            "nothing is left to search for train (the schema names" in one for one in plan.notices
        )


@pytest.mark.parametrize(
    "options",
    [
        {"automl_policy": "on"},
        {"automl": {"max_trials": 3}},
        {"request": "run a hyperparameter search"},
    ],
    ids=str,
)
def test_a_search_that_was_asked_for_and_has_no_parameter_is_refused(
    made: Made, options: Any
) -> None:
    with pytest.raises(SpecError, match="nothing is left to search"):
        searched(made).plan("train", **options)


def test_a_default_search_leaves_out_what_the_command_does_not_receive(made: Made) -> None:
    entry = {"command": "tool", "mode": "args", "args": {"--lr": "train.lr"}}
    skill = searched(made, entry, automl_default_parameters=["train.lr", "train.wd"])
    plan = skill.plan("train")
    assert plan.study is not None
    assert [one["name"] for one in plan.study["space"]["knobs"]] == ["train.lr"]
    assert any("does not receive it: train.wd" in one for one in plan.notices)


# Fields of checkpoints and weights that are misspelled.

MODEL = {"train": {"resume_ckpt": None, "ptm": None, "lr": 1}}


@pytest.mark.parametrize(
    "inputs",
    [
        {},
        {"train.resume_ckpt": {"type": "file", "optional": True}},
        {"train.resume_ckp": {"type": "file", "optional": True}},
    ],
    ids=str,
)
def test_a_misspelled_field_of_the_checkpoint_is_named_beside_an_input_of_its_section(
    made: Made, tmp_path: Path, inputs: Any
) -> None:
    rows = {"train": {"train.resume_ckp": "resume_model_or_ptm"}}
    skill = made({"inputs": inputs}, MODEL, spec_params=rows)
    assert said(skill, "(did you mean train.resume_ckpt?)")
    assert said(
        skill, "a resumed job of train would start anew: spec_params.train.train.resume_ckp"
    )
    with pytest.raises(SpecError, match="would be lost") as caught:
        skill.plan("train", ptm=str(tmp_path / "data" / "w.pth"))
    assert "did you mean train.resume_ckpt?" in str(caught.value.hint)


def test_a_second_field_that_the_runner_may_know_is_not_misspelled(made: Made) -> None:
    rows = {"train.resume_ckp": "resume_model", "train.resume_ckpt": "ptm"}
    skill = made(None, MODEL, spec_params={"train": rows})
    assert not said(skill, "did you mean")


def test_weights_that_reach_no_field_are_refused(made: Made, tmp_path: Path) -> None:
    weights = str(tmp_path / "data" / "w.pth")
    rows = {"train.ptm": "parent_model_or_ptm", "train.resume_ckpt": "parent_model"}
    skill = made(None, MODEL, spec_params={"train": rows})
    assert skill.plan("train", ptm=weights).spec["train"]["ptm"] == weights
    with pytest.raises(UsageError, match=r"reach no field of train: train\.resume_ckpt") as caught:
        skill.plan("train", ptm=weights, spec_overrides={"train.resume_ckpt": weights})
    assert caught.value.field == "ptm"


def test_weights_that_the_command_does_not_receive_are_refused(made: Made, tmp_path: Path) -> None:
    entry = {"command": "tool", "mode": "args", "args": {"--lr": "train.lr"}}
    skill = made(entry, MODEL, spec_params={"train": {"train.ptm": "ptm"}})
    skill.plan("train")
    with pytest.raises(UsageError, match=r"no place for train\.ptm") as caught:
        skill.plan("train", ptm=str(tmp_path / "data" / "w.pth"))
    assert caught.value.field == "ptm"


FAILS = """
import os, sys
os.makedirs(sys.argv[1] + "/train", exist_ok=True)
open(sys.argv[1] + "/train/model_epoch_001.pth", "w").write("w")
raise SystemExit(3)
"""


def test_a_resume_that_starts_anew_says_so_in_the_plan_and_keeps_the_weights(
    made: Made, tmp_path: Path
) -> None:
    weights = str(tmp_path / "data" / "w.pth")
    args = {"--ptm": "train.ptm", "--lr": "train.lr"}
    command = ["{python}", "{bundle_dir}/run.py"]
    entry = {"command": command, "mode": "args", "args": {"job": "{job_dir}", **args}}
    rows = {"train.ptm": "ptm", "train.resume_ckpt": "resume_model"}
    skill = made(entry, MODEL, spec_params={"train": rows})
    (tmp_path / "bundle" / "run.py").write_text(FAILS.replace("argv[1]", "argv[2]"))
    assert said(skill, "would start anew: the command does not receive train.resume_ckpt")
    job = skill.create_job(skill.plan("train", ptm=weights))
    for again in (False, True):
        with pytest.raises(JobFailedError):
            (job.resume() if again else job).wait(30)
        assert read_spec(job.folder / "spec.yaml")["train"]["ptm"] == weights
        command = records.read_record(job.folder)["launch"]["command"]
        assert command[command.index("--ptm") + 1] == weights
    assert "it starts anew: the command has no place for train.resume_ckpt" in job.logs()


def test_a_resume_by_a_misspelled_field_says_so_and_keeps_the_weights(
    made: Made, tmp_path: Path
) -> None:
    weights = str(tmp_path / "data" / "w.pth")
    entry = {
        "command": ["{python}", "{bundle_dir}/run.py", "{job_dir}", "{config_path}"],
        "inputs": {"train.resume_ckpt": {"type": "file", "optional": True}},
    }
    rows = {"train.ptm": "ptm", "train.resume_ckp": "resume_model"}
    skill = made(entry, MODEL, spec_params={"train": rows})
    (tmp_path / "bundle" / "run.py").write_text(FAILS)
    job = skill.create_job(skill.plan("train", ptm=weights))
    with pytest.raises(JobFailedError):
        job.wait(30)
    (notice,) = job.resume().notices
    with pytest.raises(JobFailedError):
        job.wait(30)
    assert "it starts anew: the field to resume from is misspelled" in notice
    assert "train.resume_ckp: model_epoch_001.pth is there" in job.logs()
    assert read_spec(job.folder / "spec.yaml")["train"] == {**MODEL["train"], "ptm": weights}


def test_a_negative_number_of_lines_of_a_log_is_refused(made: Made, tmp_path: Path) -> None:
    skill = made({"command": "echo one"}, {"train": {"lr": 1}})
    job = skill.create_job(skill.plan("train")).wait(30)
    assert (job.logs(tail=0), job.logs(tail=1)) == ("", "one\n")
    with pytest.raises(UsageError) as caught:
        job.logs(tail=-1)
    assert (caught.value.field, caught.value.got) == ("tail", -1)
