"""Hints are written for a shell; over MCP they name the arguments of the tools."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from mae_sdk import Skill
from mae_sdk.cli.main import cli
from mae_sdk.mcp_server import answer, tools
from mae_sdk.mcp_server.words import ARGUMENTS, OF_THE_SHELL, SHELL, in_arguments

from tests.support.images import write_imagefolder

ROOT = Path(__file__).resolve().parents[2]
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z_-]*")


def options_of(command: click.Command) -> set[str]:
    found = {word for one in command.params for word in one.opts if word.startswith("--")}
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            if (inner := command.get_command(context, name)) is not None:
                found |= options_of(inner)
    return found


def test_every_option_of_the_command_line_is_an_argument_of_a_tool_or_known_to_be_none() -> None:
    taken = {name for tool in tools(Skill()) for name in tool.properties}
    assert set(ARGUMENTS.values()) <= taken, "an argument that no tool takes"
    assert options_of(cli) - {"--help"} == {*ARGUMENTS, *OF_THE_SHELL}


def texts(file: Path) -> Iterator[str]:
    """The texts in a file that are not documentation; what is filled in is PLACE."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    inner = {
        id(part) for one in ast.walk(tree) if isinstance(one, ast.JoinedStr) for part in one.values
    }
    inner |= {id(one.value) for one in ast.walk(tree) if isinstance(one, ast.Expr)}
    for one in ast.walk(tree):
        if id(one) in inner:
            continue
        if isinstance(one, ast.JoinedStr):
            parts = one.values
            yield "".join(p.value if isinstance(p, ast.Constant) else "PLACE" for p in parts)  # type: ignore[misc]
        elif isinstance(one, ast.Constant) and isinstance(one.value, str):
            yield one.value


def test_no_text_of_the_source_is_told_over_mcp_with_an_option_unless_it_says_where() -> None:
    options, seen, wrong = options_of(cli), 0, []
    for room in ("skill/mae_skill", "sdk/mae_sdk", "runners/mae_runners"):
        for file in sorted((ROOT / room).rglob("*.py")):
            if "/cli/" in file.as_posix() or file.name == "words.py":
                continue
            for text in texts(file):
                if not options.intersection(OPTION.findall(text)):
                    continue
                seen += 1
                for clause in in_arguments(text).split("; "):
                    if options.intersection(OPTION.findall(clause)) and SHELL not in clause:
                        wrong.append(f"{file.name}: {clause}")
    assert seen > 80 and wrong == []


@pytest.mark.parametrize(
    ("shell", "tool"),
    [
        ("add --train-datasets URI", "add train_datasets=URI"),
        ("add --source bank=URI", 'add sources={"bank": "URI"}'),
        ("leave --ptm out, or --parent", "leave ptm out, or parent_job_id"),
        ("--recipe auto and --parent JOB take them", "recipe=auto and parent_job_id=JOB take them"),
        (
            "mae run gen_trt_engine --parent EXPORT_JOB builds one",
            "run action=gen_trt_engine parent_job_id=EXPORT_JOB builds one",
        ),
        ("mae jobs resume t-1 --lost", "resume job_id=t-1 lost=true"),
        ("mae jobs resume t-1 --env KEY=VALUE", 'resume job_id=t-1 env={"KEY": "VALUE"}'),
        ("export KEY=…, or --env KEY=…", f"{SHELL}export KEY=…, or --env KEY=…"),
        ("it is so; plan without --measure", f"it is so; {SHELL}plan without --measure"),
        ("mae run train -e FILE --ptm FILE", f"{SHELL}mae run train -e FILE --ptm FILE"),
        ("name the machine with --on, or leave it", "name the machine with on, or leave it"),
        ("--on 2x8xA100,nodes=2 plans for it", "on=2x8xA100,nodes=2 plans for it"),
        ("--epochs of the runner, --partition of slurm", None),
        ("mae inspect lists them", None),
    ],
)
def test_a_hint_is_said_in_the_words_of_the_tools(shell: str, tool: str | None) -> None:
    assert in_arguments(shell) == (shell if tool is None else tool)
    assert in_arguments(in_arguments(shell)) == in_arguments(shell)


def test_errors_and_notices_of_a_call_name_arguments(tmp_path: Path) -> None:
    skill = Skill()
    called = {tool.name: tool for tool in tools(skill)}
    data = str(write_imagefolder(tmp_path / "d", classes=2, per_class=4))

    def said(name: str, **arguments: Any) -> dict[str, Any]:
        return answer(skill, called[name], arguments)[0]

    assert said("plan", action="train")["hint"] == "add train_datasets=URI"
    assert "parent_job_id=JOB" in said("plan", action="export")["hint"]
    small = {"model.arch": "vit_tiny_patch16", "train.accelerator": "cpu"}
    small |= {"train.stage": "finetune", "model.num_classes": 2}
    made = said("plan", action="train", train_datasets=data, spec_overrides=small, full=True)
    notices = "\n".join(map(str, made["notices"]))
    assert "recipe=auto makes it the spec" in notices
    assert not OPTION.search(notices + "\n".join(map(str, made["warnings"])))
