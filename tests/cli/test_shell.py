"""How the command line behaves whatever the command: help, errors for people and machines, exit
codes, completion."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from mae_sdk.cli import main as cli_main
from mae_sdk.cli.main import COMMANDS, cli, main

MAE = str(Path(sys.executable).with_name("mae"))


def mae(*arguments: str) -> int:
    """Run in this process; the exit code."""
    with pytest.raises(SystemExit) as left:
        main(arguments)
    return int(left.value.code or 0)


def commands(group: Any, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    context = group.make_context("mae", [], resilient_parsing=True)
    found = []
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        found.append(((*path, name), command))
        if hasattr(command, "list_commands"):
            found += commands(command, (*path, name))
    return found


def test_help_lists_every_command_and_loads_no_library_but_that_of_commands() -> None:
    """So it answers at once, on any machine."""
    program = (
        "import sys\n"
        "from mae_sdk.cli.main import cli\n"
        "try:\n    cli(['--help'])\nexcept SystemExit:\n    pass\n"
        "tops = {name.partition('.')[0] for name in sys.modules if not name.startswith('_')}\n"
        "print('loaded', *sorted(tops - {*sys.stdlib_module_names}))\n"
    )
    asked = [sys.executable, "-S", "-c", f"import sys; sys.path[:] = {sys.path!r}\n{program}"]
    shown = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
    assert all(name in shown for name in COMMANDS)
    assert shown.splitlines()[-1] == "loaded click mae_sdk mae_skill"


def test_every_command_takes_json_and_has_help() -> None:
    for path, command in commands(cli):
        assert command.help, path
        if not hasattr(command, "list_commands"):
            assert any("--json" in parameter.opts for parameter in command.params), path


def test_an_unknown_command_is_a_usage_error_with_a_suggestion(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert mae("inspekt", "x") == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "did you mean 'inspect'" in shown.err


def test_with_json_an_error_is_one_object_on_stderr_and_stdout_stays_empty(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert mae("evaluate", "-e", "/nowhere.yaml", "--json") == 4
    shown = capsys.readouterr()
    assert shown.out == ""
    error = json.loads(shown.err)
    assert error["code"] == "not_found"
    assert error["exit_code"] == 4
    assert error["got"] == "/nowhere.yaml"
    assert set(error) >= {
        "code",
        "message",
        "field",
        "got",
        "expected",
        "hint",
        "retryable",
        "exit_code",
    }


@pytest.mark.parametrize(
    "arguments",
    [
        ("jobs", "status"),
        ("plan",),
        ("validate", "train"),
        ("jobs", "list", "--limit", "many"),
        ("train", "--nope"),
    ],
)
def test_a_wrong_call_ends_with_2_and_says_where_help_is(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert mae(*arguments) == 2
    assert "--help" in capsys.readouterr().err


def test_a_fault_of_ours_ends_with_1_and_is_named_as_ours(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(cli_main.cli, "main", broken)
    assert mae("plan", "train", "--json") == 1
    error = json.loads(capsys.readouterr().err)
    assert error["code"] == "internal"
    assert "ZeroDivisionError" in error["message"]
    assert mae("plan", "train") == 1
    assert "this is a bug in mae" in capsys.readouterr().err


def test_a_fault_of_the_disk_is_a_storage_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*arguments: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "/results/x")

    monkeypatch.setattr("mae_sdk.Skill.jobs", full)
    assert mae("jobs", "list", "--json") == 8
    error = json.loads(capsys.readouterr().err)
    assert (error["code"], error["got"]) == ("storage", "/results/x")


def test_an_interrupt_ends_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli_main.cli, "main", interrupted)
    assert mae("jobs", "list") == 130


def test_a_closed_pipe_is_no_error() -> None:
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {MAE} --help | head -1"], capture_output=True, text=True
    )
    assert done.returncode in (0, 141)
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script_for_the_shell(
    shell: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert mae("completion", shell) == 0
    assert "_MAE_COMPLETE" in capsys.readouterr().out


def test_completion_completes_commands_and_options() -> None:
    environment = {
        **os.environ,
        "_MAE_COMPLETE": "bash_complete",
        "COMP_WORDS": "mae jobs st",
        "COMP_CWORD": "2",
    }
    shown = subprocess.run([MAE], env=environment, capture_output=True, text=True).stdout
    assert shown.split() == ["plain,status"]
    environment |= {"COMP_WORDS": "mae plan --trai", "COMP_CWORD": "2"}
    assert (
        "plain,--train-datasets"
        in subprocess.run([MAE], env=environment, capture_output=True, text=True).stdout
    )


def test_an_action_in_the_foreground_becomes_the_runner(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    called: list[list[str]] = []
    monkeypatch.setattr(os, "execve", lambda program, arguments, env: called.append(arguments))
    spec = tmp_path / "spec.yaml"
    spec.write_text("train: {num_epochs: 1}\n")
    mae("train", "--experiment_spec", str(spec), "train.num_epochs=2", "results_dir=/tmp/x y")
    assert called == [
        [
            sys.executable,
            "-m",
            "mae_runners",
            "train",
            "-e",
            str(spec),
            "train.num_epochs=2",
            "results_dir=/tmp/x y",
        ]
    ]


@pytest.mark.parametrize(
    ("words", "field", "got"),
    [
        (["plan", "train", "train.seed=1", "train.seed=2"], "train.seed", [1, 2]),
        (
            ["run", "train", "num_epochs=1", "train.num_epochs=2"],
            "train.num_epochs",
            {"num_epochs": 1, "train.num_epochs": 2},
        ),
        (["validate", "train", "-e", "FILE", "seed=1", "seed=2"], "seed", [1, 2]),
        (["get-spec", "train", "train.seed=1", "train.seed=2"], "train.seed", [1, 2]),
        (["inspect", ".", "dataset.channels=1", "dataset.channels=3"], "dataset.channels", [1, 3]),
        (["train", "-e", "FILE", "train.seed=1", "train.seed=2"], "train.seed", [1, 2]),
        (
            ["plan", "train", "--automl", "max_trials=2", "--automl", "max_trials=3"],
            "automl.max_trials",
            [2, 3],
        ),
        (["plan", "train", "--env", "LEVEL=a", "--env", "LEVEL=b"], "env.LEVEL", ["a", "b"]),
        (["plan", "train", "-e", "FILE", "--experiment_spec=b"], "--experiment_spec", None),
        (["jobs", "list", "--limit", "3", "--limit=4"], "--limit", ["3", "4"]),
    ],
)
def test_what_is_given_twice_and_differs_is_refused_by_every_command(
    words: list[str], field: str, got: Any, tmp_path: Path
) -> None:
    spec = tmp_path / "spec.yaml"
    spec.write_text("train: {accelerator: cpu}\n")
    words = [word.replace("FILE", str(spec)) for word in words]
    done = subprocess.run([MAE, *words, "--json"], cwd=tmp_path, capture_output=True, text=True)
    error = json.loads(done.stderr.splitlines()[-1])
    assert (done.returncode, error["code"], error["field"]) == (2, "usage", field)
    assert "given twice" in error["message"] and error["expected"] and error["hint"]
    assert error["got"] == (got or [str(spec), "b"])
    assert not (tmp_path / "mae-results").exists()


def test_an_option_that_says_the_same_again_is_taken(tmp_path: Path) -> None:
    root = f"--results-root={tmp_path}"
    done = subprocess.run([MAE, "jobs", "list", root, root, "--json"], capture_output=True)
    assert done.returncode == 0 and json.loads(done.stdout)["jobs"] == []


def test_an_error_of_the_foreground_runner_is_one_object_too_where_json_is_asked_for(
    tmp_path: Path,
) -> None:
    spec = tmp_path / "spec.yaml"
    spec.write_text("train: {accelerator: cpu}\n")
    done = subprocess.run(
        [MAE, "train", "-e", str(spec), "--json"], cwd=tmp_path, capture_output=True, text=True
    )
    error = json.loads(done.stderr.splitlines()[-1])
    assert (error["field"], error["exit_code"]) == ("dataset.train_data_sources", done.returncode)
    assert done.stdout == ""


def test_output_is_cut_with_a_word_on_how_to_see_the_rest() -> None:
    from mae_sdk.cli.common import bounded

    cut = bounded([str(number) for number in range(100)], more="--json", limit=10).splitlines()
    assert len(cut) == 11
    assert cut[-1] == "… 90 more: --json"


def test_json_never_holds_a_number_that_json_does_not_have() -> None:
    from mae_sdk.cli.common import dumps

    assert json.loads(dumps({"loss": float("nan"), "best": [float("inf"), 1.5]})) == {
        "loss": None,
        "best": [None, 1.5],
    }


def test_a_line_of_json_is_one_line_for_every_reader() -> None:
    from mae_sdk.cli.common import one_line

    document = {"key": "a\x85b\u2028c\u2029d\ne"}
    assert len(one_line(document).splitlines()) == 1 and json.loads(one_line(document)) == document
