"""``mae``: one program for people, agents and schedulers.

Commands load when they are called, so ``mae --help`` costs little more than Python and click. Data
goes to stdout, talk to stderr; an error is text for people or, with ``--json``, one object on
stderr. Exit codes are those of `mae_skill.errors`.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import os
import sys
import traceback
from collections.abc import Sequence

import click
from mae_skill.errors import MaeError, UsageError

from mae_sdk import answers
from mae_sdk.cli.common import did_you_mean, one_line, print_error

# name → (module under mae_sdk.cli, attribute, the line that `mae --help` shows).
# The lines stand here so that help imports no command.
COMMANDS: dict[str, tuple[str, str, str]] = {
    "plan": (
        "plan_run",
        "plan",
        "What a job would do: spec, data, AutoML, cost, warnings. Starts and writes nothing.",
    ),
    "run": ("plan_run", "run", "Launch exactly that job; --wait to stay with it."),
    "jobs": ("jobs", "jobs", "list, best, status, logs, wait, cancel, resume, delete, show"),
    "report": (
        "report",
        "report",
        "A job as one HTML page to look at and to mail; --serve: all jobs, live.",
    ),
    "platforms": ("platforms", "platforms", "Where jobs can run, and what is missing for it."),
    "get-spec": ("spec", "get_spec", "The spec template of an action, as YAML."),
    "validate": ("spec", "validate", "Every error of a spec at once."),
    "explain": (
        "spec",
        "explain",
        "What a spec field is, when it acts, where its default comes from.",
    ),
    "diff": ("spec", "diff", "What differs between two specs."),
    "inspect": ("data", "inspect", "A data source before it costs anything."),
    "cache": ("data", "cache", "The archive cache: what it holds; `clear` empties it."),
    "train": ("action", "train", "Train in the foreground, no job."),
    "evaluate": ("action", "evaluate", "Evaluate in the foreground, no job."),
    "inference": ("action", "inference", "Run inference in the foreground, no job."),
    "export": ("action", "export", "Export to ONNX in the foreground, no job."),
    "gen_trt_engine": (
        "action",
        "gen_trt_engine",
        "Build a TensorRT engine in the foreground, no job.",
    ),
    "quickstart": (
        "quickstart",
        "quickstart",
        "The whole chain on real digits, on this machine, in a few minutes.",
    ),
    "doctor": ("doctor", "doctor", "What is here, what is missing, and how to get it."),
    "skill": ("bundle", "skill", "The bundle: validate, generate, install."),
    "mcp": ("bundle", "mcp", "Serve these commands as MCP tools over stdio."),
    "completion": ("bundle", "completion", 'Shell completion: eval "$(mae completion bash)".'),
}


class LazyGroup(click.Group):
    """A group whose commands are imported when called, never for help."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.list_commands(ctx):
            return None
        module, attribute, _ = COMMANDS[cmd_name]
        command: click.Command = getattr(
            importlib.import_module(f"mae_sdk.cli.{module}"), attribute
        )
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = click.utils.make_str(args[0])
        if not name.startswith("-") and name not in self.list_commands(ctx):
            from mae_skill.errors import UsageError

            raise UsageError(
                "no such command",
                field="command",
                got=name,
                expected=", ".join(self.list_commands(ctx)),
                hint=did_you_mean(name, self.list_commands(ctx)),
            )
        found, command, rest = super().resolve_command(ctx, args)
        if command is not None and not ctx.resilient_parsing:
            refuse_repeated(command, rest)
        return found, command, rest

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name][2]) for name in self.list_commands(ctx)])


def refuse_repeated(command: click.Command, args: list[str]) -> None:
    """Refuse an option that takes one value and is given two: click would take the last.

    Raises:
        UsageError: there is one.
    """
    context = click.Context(command, resilient_parsing=True)
    if isinstance(command, click.Group):
        names = [place for place, word in enumerate(args) if word in command.list_commands(context)]
        inner = command.get_command(context, args[names[0]]) if names else None
        if inner is not None:
            refuse_repeated(inner, args[names[0] + 1 :])
        return
    twin = copy.copy(command)
    twin.params = [copy.copy(option) for option in command.params]
    single = [
        option
        for option in twin.params
        if isinstance(option, click.Option)
        and not (option.multiple or option.is_flag or option.count)
    ]
    for option in single:
        option.multiple = True
    try:
        given, _, _ = twin.make_parser(context).parse_args(list(args))
    except click.UsageError:
        return  # the command itself says what is wrong
    for option in single:
        values = list(dict.fromkeys(given.get(option.name or "") or ()))
        if len(values) > 1:
            name = max(option.opts, key=len)
            raise UsageError(
                f"{name} is given twice",
                field=name,
                got=values,
                expected="one value",
                hint="leave one of the two out",
            )


def _print_version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if not value or ctx.resilient_parsing:
        return
    from importlib.metadata import version

    click.echo(f"mae {version('mae-skill')}")
    ctx.exit()


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Show the version and exit.",
)
def cli() -> None:
    """Masked-autoencoder pretraining and fine-tuning: plan, run, watch, chain.

    \b
    mae plan train --train-datasets s3://bucket/data/train  look before you launch
    mae run  train --train-datasets s3://bucket/data/train  launch; AutoML unless switched off
    mae jobs status JOB                                     watch
    mae run evaluate --parent JOB --eval-dataset s3://...   chain

    Every command takes --json. Exit codes: 0 fine, 1 internal error, 2 spec or usage, 3 data, 4 not
    found, 5 job failed, 6 canceled, 7 missing optional dependency, 8 storage or network, 9 still
    running, 75 preempted, 130 interrupted.
    """


def main(args: Sequence[str] | None = None) -> None:
    """Entry point: run one command and leave with its documented exit code."""
    from mae_sdk.run.output import (
        CLOSED_PIPE_EXIT,
        clean_output,
        drop_output,
        is_closed,
        whole_streams,
    )

    if args is None and sys.getfilesystemencoding() != "utf-8":
        # Names of files are bytes of UTF-8 whatever the locale says; so are those in specs.
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])
    arguments = list(sys.argv[1:] if args is None else args)
    whole_streams()
    try:
        with clean_output():
            code = _run(arguments)
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError as error:  # what was printed could not be written
        code = CLOSED_PIPE_EXIT if is_closed() else 8
        if code == 8:
            with contextlib.suppress(OSError):
                os.write(2, f"error [storage] the output cannot be written: {error}\n".encode())
        drop_output()
    sys.exit(code)


def _run(arguments: list[str]) -> int:
    """Run one command; its exit code.

    Raises:
        OSError: the output cannot be written.
    """
    from mae_sdk.jobs.secrets import note_words
    from mae_sdk.run.output import is_closed

    as_json = _wants_json(arguments)
    note_words(arguments)
    try:
        code = cli.main(args=arguments, prog_name="mae", standalone_mode=False)
    except (KeyboardInterrupt, click.Abort):
        document = {"code": "interrupted", "message": "interrupted", "exit_code": 130}
        sys.stderr.write((one_line(document) if as_json else "interrupted") + "\n")
        code = 130
    except SystemExit as end:  # click leaves with 1 when a pipe is closed
        if is_closed():
            raise BrokenPipeError from None
        code = end.code
    except Exception as error:
        if isinstance(error, BrokenPipeError) and is_closed():
            raise
        code = _fail(error, as_json)
    return code if isinstance(code, int) else 0


def _wants_json(arguments: Sequence[str]) -> bool:
    end = arguments.index("--") if "--" in arguments else len(arguments)
    return "--json" in arguments[:end]


def _fail(error: Exception, as_json: bool) -> int:
    """Print an error; returns its exit code."""

    if isinstance(error, click.ClickException):
        hint = None
        if isinstance(error, click.UsageError) and error.ctx is not None:
            hint = f"see `{error.ctx.command_path} --help`"
        param = getattr(error, "param", None)
        option = getattr(error, "option_name", None) or (param.opts[0] if param else None)
        error = UsageError(error.format_message(), field=option, hint=hint)
    error = answers.system_error(error) or error
    if isinstance(error, MaeError):
        print_error(error, as_json=as_json)
        return error.exit_code
    return _internal_error(error, as_json)


def _internal_error(error: Exception, as_json: bool) -> int:
    """A bug in this program: the traceback for people, one object for machines; exit code 1."""
    if as_json:
        sys.stderr.write(one_line(answers.internal_error(error)) + "\n")
    else:
        traceback.print_exception(error)
        sys.stderr.write(
            "mae: internal error: this is a bug in mae; please report the lines above\n"
        )
    return 1


if __name__ == "__main__":
    main()
