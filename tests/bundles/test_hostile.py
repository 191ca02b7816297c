"""A bundle from anywhere: loading and planning run nothing, read nothing outside it, and a command
gets values as arguments only.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from mae_sdk import Skill
from mae_sdk.jobs.command_words import fill, places
from mae_sdk.plan.command import command_of, shell_syntax
from mae_skill.bundle import Bundle
from mae_skill.bundle_file import bundle_text
from mae_skill.errors import MaeError
from mae_skill.reader import dump_yaml


def bundle(folder: Path, entry: dict[str, Any] | None = None, **more: Any) -> Bundle:
    (folder / "references").mkdir(parents=True)
    info: dict[str, Any] = {"name": "odd", "actions": {"train": entry or {"command": "true"}}}
    text = dump_yaml({**info, **more})
    (folder / "references" / "skill_info.yaml").write_text(text)
    (folder / "references" / "spec_template_train.yaml").write_text("a: {b: null}\n")
    return Bundle.load(folder)


HOSTILE: dict[str, dict[str, Any]] = {
    "a validator that is a program": {"validator": "subprocess:call"},
    "an estimator that is a program": {"estimator": "os:system"},
    "a template elsewhere": {"spec_templates": {"train": "../../../../etc/passwd"}},
    "a path out of the source": {"path": "../../secret"},
    "a path of its own": {"path": "/etc/passwd"},
    "a link to a local file": {"spec_params": {"train": {"a.b": {"link": "file:///etc/passwd"}}}},
    "a list as a table": {"data_sources": ["a"]},
    "a text as an entry": {"actions": {"train": "rm -rf /"}},
    "a huge index": {"spec_params": {"train": {"a.c[99999]": "output_dir"}}},
    "a command with a substitution": {"command": "echo $(touch $MARK)"},
    "a command with two programs": {"command": "true; touch $MARK"},
    "a command that writes": {"command": "echo x > $MARK"},
    "an odd mode": {"mode": "eval"},
    "an odd format": {"config_format": "pickle"},
    "a script elsewhere": {"execution": {"type": "python_script", "script": "nothing.py"}},
    "an unknown placeholder": {"command": "run {nobody_knows}"},
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_a_bundle_must_not_do_is_refused_by_name_and_nothing_happens(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = tmp_path / "mark"
    monkeypatch.setenv("MARK", str(mark))
    monkeypatch.setenv("MAE_RESULTS_ROOT", str(tmp_path / "results"))
    monkeypatch.setenv("MAE_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.txt").write_text("a")

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    more = dict(HOSTILE[name])
    entry = {"command": "true"}
    for word in ("command", "mode", "config_format", "execution"):
        if word in more:
            entry[word] = more.pop(word)
    if "path" in more:
        row = {"source": "train_datasets", "path": more.pop("path")}
        more["data_sources"] = {"train": {"a.b": row}}
    options = {"train_datasets": str(tmp_path / "data")} if "data_sources" in more else {}
    with pytest.raises(MaeError):
        bundle(tmp_path / "bundle", entry, **more)
        Skill(tmp_path / "bundle").plan("train", **options, automl_policy="off")
    assert not mark.exists()
    assert not (tmp_path / "results").exists()


def words(made: Bundle, job: Path, spec: dict[str, Any] | None = None) -> list[str]:
    return [fill(word, places(job)) for word in command_of(made, "train", spec or {}).words]


@pytest.mark.parametrize(
    "entry",
    [
        {"command": "cat {config_path} && echo done", "shell": True},
        {"command": "bash -c 'cat {config_path}; echo done'"},
        {"command": "bash -lc 'cat \"{config_path}\"; echo done'"},
    ],
    ids=["shell", "bash -c", "in double quotes"],
)
def test_values_reach_a_shell_as_arguments_and_never_as_its_text(
    entry: dict[str, Any], tmp_path: Path
) -> None:
    job = tmp_path / "a$(touch mark)`touch mark`"
    job.mkdir()
    (job / "spec.yaml").write_text("told\n")
    made = words(bundle(tmp_path / "bundle", entry), job)
    ended = subprocess.run(made, capture_output=True, text=True, cwd=tmp_path)
    assert "done" in ended.stdout
    assert not (tmp_path / "mark").exists()


NOTE = "a  * $(touch mark) `touch mark` '; touch mark; \" b"


@pytest.mark.parametrize(
    "script",
    [
        "show {train.note}",
        'show "{train.note}"',
        "show '{train.note}'",
        "show ''\"{train.note}\"",
        "show {train.note} | cat",
        "show {train.note} | sed -n 1,10p",
        "show {train.note} 2>&1 | tee {job_dir}/log",
        "exec 2> {job_dir}/errors; show {train.note}",
        "for i in 1; do show {train.note}; done",
        "case a in a) show {train.note};; esac",
        "show {train.note} > log && cat log",
        "cd {job_dir}; exec show {train.note}",
        "A=1 env B=2 timeout 9 show {train.note}",
        "if true; then show {train.note}; fi",
        "(show {train.note})",
        "bash {bundle_dir}/show.sh {train.note}",
        "python3 -u {bundle_dir}/show.py {train.note}",
        "{python} {bundle_dir}/show.py {train.note} | awk '{print $0}'",
        "printf '<%s>' {train.note}",
        "trap 'rm -f x' EXIT; show {train.note}",
        '# don\'t\nshow "{train.note}"',
    ],
)
def test_a_placeholder_as_a_word_is_one_argument_whatever_its_value(
    script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = bundle(tmp_path / "my bundle", {"command": script, "shell": True})
    programs = {"show": "#!/bin/sh\nprintf '<%s>' \"$@\"", "show.sh": "printf '<%s>' \"$@\""}
    programs["show.py"] = "import sys; print(''.join(f'<{one}>' for one in sys.argv[1:]), end='')"
    for name, text in programs.items():
        (made.root / name).write_text(text)
        (made.root / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(made.root), prepend=":")
    filled = words(made, tmp_path, {"train": {"note": NOTE}})
    ended = subprocess.run(filled, capture_output=True, text=True, cwd=tmp_path)
    assert ended.stdout.removesuffix("\n") == f"<{NOTE}>"
    assert not (tmp_path / "mark").exists()


def test_a_value_is_a_part_of_a_word_that_has_no_other_signs(tmp_path: Path) -> None:
    entry = {"command": "printf '<%s>' --note={train.note}", "shell": True}
    made = words(bundle(tmp_path / "bundle", entry), tmp_path, {"train": {"note": NOTE}})
    ended = subprocess.run(made, capture_output=True, text=True, cwd=tmp_path)
    assert ended.stdout == f"<--note={NOTE}>"


@pytest.mark.parametrize(
    "script",
    [
        "bash -c 'echo {train.note}'",
        'sh -ec "echo {train.note}"',
        'eval "echo {train.note}"',
        "trap {train.note} EXIT",
        "source {train.note}",
        ". {train.note}",
        "\\eval {train.note}",
        "python3 -c {train.note}",
        "find . -exec sh -c {train.note} ';'",
        "/bin/b?sh -c {train.note}",
        "/bin/bash -o pipefail -c {train.note}",
        'ba\\\nsh -c "echo {train.note}"',
        "{python} -c 'print({train.note})'",
        "cat <<EOF\n{train.note}\nEOF",
        "echo $'a {train.note}'",
        'echo "`cat {train.note}`"',
        'echo "${A:-{train.note}}"',
        "echo \\{train.note}",
    ],
)
def test_a_placeholder_that_would_be_read_as_code_is_refused(script: str, tmp_path: Path) -> None:
    made = bundle(tmp_path / "bundle", {"command": script, "shell": True})
    with pytest.raises(MaeError, match="cannot be one argument") as caught:
        command_of(made, "train", {"train": {"note": "x"}})
    assert caught.value.field == "actions.train.command"


MAY_BE_CODE = [
    'bash -c -- "echo {train.note}"',
    'bash \\\n -c "echo {train.note}"',
    '"bash" "-c" "echo {train.note}"',
    'b"as"h -c {train.note}',
    'X="echo {train.note}"; eval "$X"',
    'X={train.note} bash -c "$X"',
    'X={train.note}; bash -c "$X"',
    'X=({train.note}); "${X[@]}"',
    'su -c "echo {train.note}" root',
    "su -c {train.note} root",
    'perl -e "print {train.note}"',
    "perl -e {train.note}",
    'awk "BEGIN{print {train.note}}"',
    "awk {train.note}",
    'B=bash; $B -c "echo {train.note}"',
    "B=bash; $B -c {train.note}",
    "B=bash; timeout 5 $B -c {train.note}",
    'script -c "echo {train.note}"',
    "script -c {train.note}",
    'flock F -c "echo {train.note}"',
    "flock F -c {train.note}",
    "echo $(({train.note}+1)) | cat",
    "(({train.note})) | cat",
    "let x={train.note}",
    "[[ {train.note} -eq 1 ]] | cat",
    "[ -v {train.note} ]",
    "declare -i x={train.note}",
    "unset {train.note}",
    "printf -v {train.note} x",
    'ssh host "echo {train.note}"',
    "ssh host {train.note}",
    "sudo ssh host {train.note}",
    'sed "s/x/{train.note}/e"',
    "sed {train.note}",
    "env -S {train.note}",
    "env {train.note}",
    "xargs {train.note}",
    "python3.11 {train.note}",
    "node -e {train.note}",
    "{train.note} x",
    "echo {train.note} | sh",
    "{ echo {train.note}; } | bash",
    "(echo {train.note}) |\n bash",
    "echo {train.note} | (bash)",
    "for i in 1; do echo {train.note}; done | tee log | sh",
    "exec > >(bash); echo {train.note}",
    "exec 3<<< {train.note}; bash <&3",
    "echo {train.note} | sed 's/x/y/e'",
    "echo {train.note} | awk '{system($0)}'",
    "echo {train.note} | cat | bash -s",
    "echo {train.note} |& sh",
    'echo {train.note} | while read x; do eval "$x"; done',
    "echo {train.note} > >(bash)",
    "builtin [ -v {train.note} ]",
    "builtin printf -v {train.note} x",
    "ba$X -c {train.note}",
    "$(echo /bin/bash) -c {train.note}",
    "${X/a/b} -c {train.note}",
    "/bin/[b]ash {train.note}",
    "bash ${train.note}",
    "bash <<< {train.note}",
    'for x in {train.note}; do eval "$x"; done',
    'read x <<< {train.note}; eval "$x"',
    'f() { eval "$1"; }; f {train.note}',
    'function f { eval "$1"; }; f {train.note}',
    'set -- {train.note}; eval "$1"',
    ': {train.note}; eval "$1"',
    ': {train.note}; eval "$_"',
    'echo "$(printf %s {train.note})"',
    'echo "$(printf %s "{train.note}")"',
    'echo "${NONE:-}{train.note}"',
    'echo "a {train.note}"',
]


@pytest.mark.parametrize("script", MAY_BE_CODE)
def test_where_a_value_could_be_code_it_must_be_plain(script: str, tmp_path: Path) -> None:
    made = bundle(tmp_path / "bundle", {"command": script, "shell": True})
    for note in ("$(touch mark)", "touch mark", "`touch mark`", "a[$(touch mark)]", 'f("x")'):
        with pytest.raises(MaeError, match="could be read as code") as caught:
            command_of(made, "train", {"train": {"note": note}})
        assert (caught.value.field, caught.value.got) == ("train.note", note)
    if script != "{train.note} x":
        command_of(made, "train", {"train": {"note": "runs/a-1.5"}})


@pytest.mark.parametrize(
    "command",
    [
        'sudo bash -c "echo {train.note}"',
        'bash -c -- "echo {train.note}"',
        "bash -o pipefail -c 'echo {train.note}'",
        'ssh host "echo {train.note}"',
        ["perl", "-e", "print {train.note}"],
        "python3 -m timeit -n1 {train.note}",
        "{python} -u -m pdb {train.note}",
        ["sh", "-c", 'eval "$1"', "sh", "{train.note}"],
    ],
)
def test_without_a_shell_of_ours_a_value_for_an_interpreter_must_be_plain(
    command: Any, tmp_path: Path
) -> None:
    made = bundle(tmp_path / "bundle", {"command": command})
    with pytest.raises(MaeError, match="could be read as code"):
        command_of(made, "train", {"train": {"note": "$(touch mark)"}})
    assert "1.5" in " ".join(command_of(made, "train", {"train": {"note": 1.5}}).words)


@pytest.mark.parametrize(
    "entry",
    [
        {"command": "tar -xf {job_dir}/a.tar {train.note}"},
        {"command": ["tar", "-c", "{train.note}"]},
        {"command": "bash -c 'tar {train.note}'"},
        {"command": "cd x && tar {train.note}", "shell": True},
        {"command": "tool", "args": ["{train.note}"]},
    ],
    ids=str,
)
def test_a_value_that_would_be_an_option_of_the_program_is_refused(
    entry: Any, tmp_path: Path
) -> None:
    made = bundle(tmp_path / "bundle", entry)
    with pytest.raises(MaeError, match="would be read as an option") as caught:
        command_of(made, "train", {"train": {"note": "--checkpoint-action=exec=touch mark"}})
    assert getattr(caught.value, "field", None) == "train.note"
    for harmless in ("a-b", "-", "-0.5", -3):
        assert command_of(made, "train", {"train": {"note": harmless}})


@pytest.mark.parametrize(
    "command", ["tool --note={train.note}", "tool -- {train.note}", "echo {train.note}"]
)
def test_a_value_with_a_hyphen_may_stand_where_it_is_no_option(
    command: str, tmp_path: Path
) -> None:
    made = bundle(tmp_path / "bundle", {"command": command})
    assert "--x" in command_of(made, "train", {"train": {"note": "--x"}}).words[-1]


def test_places_and_options_that_could_be_code_must_be_plain_too(tmp_path: Path) -> None:
    options: dict[str, Any] = {"automl_policy": "off"}
    bundle(tmp_path / "a", {"command": 'OUT="{results_dir}"; ls "$OUT"', "shell": True})
    assert Skill(tmp_path / "a").plan("train", results_root=str(tmp_path / "r"), **options)
    with pytest.raises(MaeError, match="could be read as code"):
        Skill(tmp_path / "a").plan("train", results_root=str(tmp_path / "my r"), **options)

    made = bundle(tmp_path / "b", {"command": "ssh host train", "mode": "args"})
    assert command_of(made, "train", {"note": "x"}).words[-1] == "x"
    with pytest.raises(MaeError, match="could be read as code"):
        command_of(made, "train", {"note": "$(touch mark)"})

    made = bundle(tmp_path / "my c", {"command": 'X="{bundle_dir}"; ls "$X"', "shell": True})
    with pytest.raises(MaeError, match="could be read as code"):
        command_of(made, "train", {})


def test_a_value_in_a_comment_of_a_script_goes_nowhere(tmp_path: Path) -> None:
    entry = {"command": "echo a # of {train.note}\necho b", "shell": True}
    made = words(bundle(tmp_path / "bundle", entry), tmp_path, {"train": {"note": "\ntouch mark"}})
    ended = subprocess.run(made, capture_output=True, text=True, cwd=tmp_path)
    assert ended.stdout == "a\nb\n"
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("more", [{"mode": "args"}, {"args": ["--fast"]}])
def test_words_that_a_script_would_not_get_are_refused(
    more: dict[str, Any], tmp_path: Path
) -> None:
    made = bundle(tmp_path / "bundle", {"command": "train | tee log", "shell": True, **more})
    with pytest.raises(MaeError, match="gets no further words") as caught:
        command_of(made, "train", {"rate": 1})
    assert caught.value.field == f"actions.train.{next(iter(more))}"


def test_a_shell_script_gets_a_path_with_spaces_whole(tmp_path: Path) -> None:
    job = tmp_path / "my results"
    job.mkdir()
    (job / "spec.yaml").write_text("told\n")
    made = words(bundle(tmp_path / "bundle", {"command": "cat {config_path}", "shell": True}), job)
    assert subprocess.run(made, capture_output=True, text=True).stdout == "told\n"


@pytest.mark.parametrize(
    ("command", "syntax"),
    [
        ("run -e {config_path}", None),
        ('run \'a && b\' "c | d" {"a":1}', None),
        ("bash -c 'a && $(b)'", None),
        ("a && b", "&"),
        ("a | b", "|"),
        ("a $(b)", "$("),
        ('a "$HOME"', "$HOME"),
        ("A=1 b", "the assignment A="),
        ("cat <<EOF\nx\nEOF", "<"),
        ("a `b`", "`"),
        ("a\nb", "a line break"),
    ],
)
def test_what_only_a_shell_understands_is_seen(command: str, syntax: str | None) -> None:
    found = shell_syntax(command)
    assert (found is None) if syntax is None else str(found).startswith(syntax)


def test_options_are_words_of_their_own(tmp_path: Path) -> None:
    entry = {
        "command": "run",
        "mode": "args",
        "defaults": {"rate": 0.5},
        "flags": ["fast"],
        "args": ["--bundle", "{bundle_dir}", "--n={train.n}"],
    }
    made = bundle(tmp_path / "bundle", entry)
    spec = {"rate": 0.5, "name": "; rm -rf /", "on": True, "off": False, "train": {"n": 2}}
    assert words(made, tmp_path, spec) == [
        *("run", "--bundle", str((tmp_path / "bundle").resolve()), "--n=2"),
        *("--rate", "0.5", "--name", "; rm -rf /", "--on", "--train.n", "2", "--fast"),
    ]


def test_a_value_that_looks_like_an_option_is_part_of_its_word(tmp_path: Path) -> None:
    made = bundle(tmp_path / "bundle", {"command": "run", "mode": "args"})
    spec = {"more": "--fast", "short": "-x y", "low": -0.5, "many": [-1, 2]}
    assert words(made, tmp_path, spec) == [
        *("run", "--more=--fast", "--short=-x y", "--low", "-0.5", "--many", "-1", "2")
    ]


def test_an_option_that_is_turned_off_against_its_default_is_said(tmp_path: Path) -> None:
    values = {"amp": True, "fast": True, "size": 3}
    entry = {"command": "run", "mode": "args", "defaults": values, "flags": ["fast"]}
    bundle(tmp_path / "bundle", entry)
    options: dict[str, Any] = {"results_root": str(tmp_path / "r"), "automl_policy": "off"}
    options["spec_overrides"] = {"amp": False, "fast": False, "size": 0}
    made = Skill(tmp_path / "bundle").plan("train", **options)
    (notice,) = [one for one in made.notices if "no word for false" in one]
    assert "null: amp is left out" in notice
    assert made.launch["command"] == ["run", "--size", "0"]


def test_options_have_the_values_that_the_bundle_gives_them(tmp_path: Path) -> None:
    entry = {
        "command": "run",
        "mode": "args",
        "args": {"rate": {"default": 0.5}, "name": {"required": True}, "size": 3},
        "outputs": {"output-dir": {"type": "folder"}},
    }
    bundle(tmp_path / "bundle", entry)
    skill = Skill(tmp_path / "bundle")
    options: dict[str, Any] = {"results_root": str(tmp_path / "r"), "automl_policy": "off"}
    with pytest.raises(MaeError, match="must be given") as caught:
        skill.plan("train", **options)
    assert caught.value.field == "name"
    made = skill.plan("train", **options, spec_overrides={"name": "a b"})
    assert made.launch["command"] == [
        *("run", "--rate", "0.5", "--size", "3", "--name", "a b", "--output-dir", made.job_dir)
    ]


def test_a_runner_that_reads_toml_gets_it_without_what_is_null(tmp_path: Path) -> None:
    entry = {"command": "cat {config_path}", "config_format": "toml"}
    bundle(tmp_path / "bundle", entry)
    skill = Skill(tmp_path / "bundle")
    job = skill.create_job(
        "train",
        results_root=str(tmp_path / "r"),
        automl_policy="off",
        spec_overrides={"a.c": [1, 2], "a.d": "x"},
    ).wait(30)
    assert job.logs() == '[a]\nc = [1, 2]\nd = "x"\n'


@pytest.mark.parametrize(("value", "field"), [([1, None], "a.c[1]"), (2**63, "a.c")])
def test_a_value_that_toml_cannot_hold_is_refused_in_the_plan(
    value: Any, field: str, tmp_path: Path
) -> None:
    bundle(tmp_path / "bundle", {"command": "cat {config_path}", "config_format": "toml"})
    options: dict[str, Any] = {"results_root": str(tmp_path / "r"), "automl_policy": "off"}
    with pytest.raises(MaeError, match="TOML") as caught:
        Skill(tmp_path / "bundle").plan("train", **options, spec_overrides={"a.c": value})
    assert caught.value.field == field


@pytest.mark.parametrize("key", ["result", "metric_file"])
@pytest.mark.parametrize("path", ["/etc/passwd", "../../x.json", "a/../../x.json"])
def test_a_file_of_the_job_that_lies_outside_it_is_refused(
    key: str, path: str, tmp_path: Path
) -> None:
    bundle(tmp_path / "bundle", {"command": "true", key: path})
    options: dict[str, Any] = {"results_root": str(tmp_path / "r"), "automl_policy": "off"}
    with pytest.raises(MaeError, match="outside the job's folder") as caught:
        Skill(tmp_path / "bundle").plan("train", **options)
    assert caught.value.field == f"actions.train.{key}"


def test_a_spec_template_that_is_named_and_missing_is_an_error_of_the_action(
    tmp_path: Path,
) -> None:
    bundle(tmp_path / "bundle", spec_templates={"train": "nothing.yaml"})
    with pytest.raises(MaeError, match="no such spec template") as caught:
        Skill(tmp_path / "bundle").plan("train", automl_policy="off")
    assert (caught.value.field, caught.value.got) == ("spec_templates.train", "nothing.yaml")


def test_a_search_that_is_asked_for_where_none_can_be_is_refused(tmp_path: Path) -> None:
    bundle(tmp_path / "bundle")
    skill = Skill(tmp_path / "bundle")
    options: dict[str, Any] = {"results_root": str(tmp_path / "r")}
    assert skill.plan("train", **options, automl_policy="auto").study is None
    with pytest.raises(MaeError, match="train cannot be searched: the bundle does not") as caught:
        skill.plan("train", **options, automl_policy="on")
    assert caught.value.field == "automl_policy"


def test_an_error_shows_the_value_of_a_table_that_is_named_for_keys() -> None:
    from mae_skill.errors import looks_secret

    assert not any(map(looks_secret, ("key_defaults", "spec_shorthand_keys.lr", "gpu_spec_key")))
    assert looks_secret("key_defaults.wandb.api_key")


def test_a_command_as_it_is_reads_no_spec(tmp_path: Path) -> None:
    entry = {
        "command": "run --here {job_dir}",
        "mode": "passthrough",
        "inputs": {"/data/x.json": {"type": "file"}},
        "outputs": {"/results": {"type": "folder"}},
    }
    bundle(tmp_path / "bundle", entry)
    options: dict[str, Any] = {"results_root": str(tmp_path / "r"), "automl_policy": "off"}
    made = Skill(tmp_path / "bundle").plan("train", **options)
    assert made.launch["command"] == ["run", "--here", made.job_dir]
    assert set(made.spec) == {"a"}


def test_a_script_of_the_bundle_runs_in_its_folder(tmp_path: Path) -> None:
    made = bundle(tmp_path / "b", {"execution": {"type": "python_script", "script": "go.py"}})
    (tmp_path / "b" / "go.py").write_text("")
    command = command_of(made, "train", {})
    script = str((tmp_path / "b" / "go.py").resolve())
    assert command.words == ("{python}", script, "--config", "{config_path}")
    assert command.cwd == str((tmp_path / "b").resolve())


def test_a_bundle_with_a_bad_action_is_served_and_scored(tmp_path: Path) -> None:
    from mae_sdk.cli.main import cli
    from mae_sdk.mcp_server import tools

    from tests.support.upstream_bundle.make import write_bundle

    folder = write_bundle(tmp_path / "bundle")
    info = folder / "references" / "skill_info.yaml"
    info.write_text(
        info.read_text().replace("data_sources:", "  broken: {command: a && b}\ndata_sources:", 1)
    )
    plan = next(tool for tool in tools(Skill(folder)) if tool.name == "plan")
    action = plan.input_schema["properties"]["action"]
    assert "broken" in action["enum"]
    assert "broken cannot be served: actions.broken.command" in action["description"]
    json.dumps(plan.input_schema, allow_nan=False)

    from click.testing import CliRunner

    answer = CliRunner().invoke(cli, ["skill", "validate", str(folder), "--json"])
    assert answer.exit_code == 2
    document = json.loads(answer.stdout)
    assert (document["works"], document["of"]) == (4, 5)
    assert document["unread"]["skill_info"] == ["surprise"]
    assert "train_datasets → dataset.folders" in document["actions"]["train"]["needs"]


ODD_KEYWORDS = [
    *({word: 7} for word in ("type", "properties", "items", "pattern", "anyOf")),
    *({word: "x"} for word in ("properties", "items", "required", "minLength", "maxItems")),
    {"type": [["deep"]]},
    {"depends_on": {"a": 1}},
]


@pytest.mark.parametrize("odd", ODD_KEYWORDS, ids=str)
@pytest.mark.parametrize("where", ["section", "field"])
def test_a_keyword_of_a_schema_that_holds_another_kind_is_named(
    odd: dict[str, Any], where: str, tmp_path: Path
) -> None:
    field = {"type": "string", "default": "x"}
    section = {"type": "object", "properties": {"b": field}}
    (field if where == "field" else section).update(odd)
    made = bundle(tmp_path / "odd")
    (made.root / "schemas").mkdir()
    text = json.dumps({"properties": {"a": section}, "automl_default_parameters": ["a.b"]})
    (made.root / "schemas" / "train.schema.json").write_text(text)
    plan = Skill(made.root).plan("train", automl_policy="off", results_root=str(tmp_path / "r"))
    key = f"a.{'b.' if where == 'field' else ''}{next(iter(odd))}"
    assert any("no value of their kind" in one and key in one for one in plan.notices)


MANIFESTS = {
    "actions as a list": ('{"actions": ["train"]}', "its actions are no mapping"),
    "no actions": ('{"actions": []}', "its actions are no mapping"),
    "a text as an entry": ('{"actions": {"train": "x"}}', "the entry of train is not used"),
    "a number": ("7", "it is no mapping"),
    "a text": ('"train"', "it is no mapping"),
    "a list": ("[]", "it is no mapping"),
    "null": ("null", "it is no mapping"),
    "garbage": ("{{{", "it is not JSON"),
}


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_manifest_that_is_none_is_said_and_not_used(name: str, tmp_path: Path) -> None:
    text, why = MANIFESTS[name]
    made = bundle(tmp_path / "bundle")
    (made.root / "schemas").mkdir()
    (made.root / "schemas" / "manifest.json").write_text(text)
    options: dict[str, Any] = {"results_root": str(tmp_path / "r"), "automl_policy": "off"}
    plan = Skill(made.root).plan("train", **options)
    assert any("manifest.json" in one and why in one for one in plan.notices)


@pytest.mark.parametrize("kind", ["pipe", "/dev/zero", "outside"])
def test_a_manifest_that_is_no_file_of_the_bundle_is_not_read(kind: str, tmp_path: Path) -> None:
    made = bundle(tmp_path / "bundle")
    (made.root / "schemas").mkdir()
    manifest = made.root / "schemas" / "manifest.json"
    if kind == "pipe":
        os.mkfifo(manifest)
    else:
        (tmp_path / "other.json").write_text('{"train": {"spec_template": "none.yaml"}}')
        manifest.symlink_to("/dev/zero" if kind == "/dev/zero" else tmp_path / "other.json")
    found = Bundle.load(made.root)
    assert found.manifest == {}
    assert any("manifest.json is not used" in one for one in found.notices("train"))


def test_an_info_outside_of_the_bundle_is_not_read(tmp_path: Path) -> None:
    made = bundle(tmp_path / "bundle")
    info = made.root / "references" / "skill_info.yaml"
    info.rename(tmp_path / "other.yaml")
    info.symlink_to(tmp_path / "other.yaml")
    with pytest.raises(MaeError, match="leads out of its folder") as caught:
        Bundle.load(made.root)
    assert caught.value.field == "skill_info.yaml"


def test_a_file_of_a_bundle_has_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = bundle(tmp_path / "bundle")
    (made.root / "SKILL.md").write_text("x" * 100)
    assert bundle_text(made.root, made.root / "SKILL.md") == "x" * 100
    monkeypatch.setattr("mae_skill.bundle_file.MAX_BYTES", 99)
    with pytest.raises(MaeError, match="more than"):
        bundle_text(made.root, made.root / "SKILL.md")


@pytest.mark.parametrize("text", [None, "", "{{{", "actions: [train]", "[]"])
def test_a_bundle_that_cannot_be_read_is_served_and_every_answer_says_why(
    text: str | None, tmp_path: Path
) -> None:
    from mae_sdk.mcp_server import answer, tools
    from mae_sdk.mcp_server.protocol import introduction

    if text is not None:
        made = bundle(tmp_path / "bundle")
        (made.root / "references" / "skill_info.yaml").write_text(text)
    skill = Skill(tmp_path / "bundle")
    name, instructions = introduction(skill)
    assert (name, "cannot be served" in instructions) == ("mae", True)
    offered = {tool.name: tool for tool in tools(skill)}
    assert "cannot be served" in offered["plan"].input_schema["properties"]["action"]["description"]
    for tool in ("plan", "get_spec"):
        document, failed = answer(skill, offered[tool], {"action": "train"})
        assert failed
        assert document["code"] in ("spec_invalid", "not_found"), document


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"actions": {"train": {"command": "true"}, "odd": 7}}, "actions.odd"),
        ({"data_sources": {"odd": {"a.b": "x"}}}, "data_sources.odd.a.b"),
        ({"data_sources": {"odd": ["x"]}}, "data_sources.odd"),
        ({"spec_params": {"odd": 7}}, "spec_params.odd"),
    ],
)
def test_a_broken_action_is_an_error_of_that_action_alone(
    more: dict[str, Any], field: str, tmp_path: Path
) -> None:
    from mae_sdk.mcp_server import tools
    from mae_sdk.plan.score import score

    both = {"train": {"command": "true"}, "odd": {"command": "true"}}
    bundle(tmp_path / "bundle", **{"actions": both, **more})
    skill = Skill(tmp_path / "bundle")
    options: dict[str, Any] = {"results_root": str(tmp_path / "r"), "automl_policy": "off"}
    assert skill.plan("train", **options).launch["command"] == ["true"]
    with pytest.raises(MaeError, match="not a mapping") as caught:
        skill.plan("odd", **options)
    assert caught.value.field == field
    found = score(skill.bundle)["actions"]
    assert (found["train"]["works"], found["odd"]["works"]) == (True, False)
    assert found["odd"]["problems"][0]["field"] == field
    plan = next(tool for tool in tools(skill) if tool.name == "plan")
    assert plan.properties["action"]["enum"] == ["train", "odd"]
