"""``mae plan`` and ``mae run``: the dry run and the launch, with the same options."""

from __future__ import annotations

import contextlib
import shlex
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import click
from mae_skill.dotted import flatten
from mae_skill.errors import UsageError
from mae_skill.spelling import one_line

from mae_sdk import answers
from mae_sdk.cli.common import (
    bounded,
    emit,
    ended_text,
    environment,
    json_option,
    next_for,
    one_or_several,
    pairs,
    results_root_option,
    say,
    seconds,
    sentence,
    show,
    size,
    skill_dir_option,
)
from mae_sdk.cli.live import follow, leave_as

if TYPE_CHECKING:
    from mae_sdk.plan.plan import Plan

MAX_FIELDS = 40
"""Fields of the spec that a plan shows unless ``--full``."""

MAX_CLASSES = 12
"""Classes of a source that a plan's page lists."""

_Command = TypeVar("_Command", bound=Any)


class AutoMLOption(click.Option):
    """``--automl``: its help names every key, and loads their model only when help is asked for."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        from mae_sdk.automl.options import AutoMLOptions

        keys = ", ".join([*AutoMLOptions.model_fields, "range.KEY"])
        self.help = f"An AutoML setting, e.g. max_trials=8; may be repeated. Keys: {keys}."
        return super().get_help_record(ctx)


_SPEC = (
    click.argument("action", metavar="ACTION"),
    click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]..."),
    click.option(
        "-e",
        "--experiment_spec",
        "spec",
        metavar="FILE",
        help="A spec, YAML or JSON; - is stdin. Default: the action's template.",
    ),
    click.option(
        "--recipe",
        metavar="NAME",
        help="A published recipe as the base (`mae get-spec train --list-recipes`), or auto: "
        "what is open is fitted to data, device and budget.",
    ),
    click.option(
        "--budget",
        metavar="TIME",
        help="Time of a run that --recipe auto works to: 10m, 2h, 8gpuh. "
        "Default: 10m on a CPU, 8h on a GPU.",
    ),
)
_DATA = (
    click.option(
        "--train-datasets",
        metavar="URI",
        multiple=True,
        help="Training images: a folder, an archive, or a pattern of names such as "
        "'shards/{000..015}.tar'; may be repeated.",
    ),
    click.option(
        "--eval-dataset",
        metavar="URI",
        multiple=True,
        help="Validation images, likewise; may be repeated.",
    ),
    click.option(
        "--inference-dataset",
        metavar="URI",
        multiple=True,
        help="Images to predict, likewise; may be repeated.",
    ),
    click.option(
        "--source",
        metavar="NAME=URI",
        multiple=True,
        help="A data source of another name, as the bundle's data_sources have it; repeatable.",
    ),
    click.option(
        "--images",
        metavar="N",
        help="How many training images there are, where they are not here to be counted: 1.28M. "
        "`mae run` takes it of images behind a URL or in a folder that the platform mounts.",
    ),
)
_MODEL = (
    click.option(
        "--parent", metavar="JOB", help="The job whose model this one takes: an id or a prefix."
    ),
    click.option(
        "--checkpoint",
        metavar="POLICY",
        help="Which of the parent's checkpoints: best (default), latest or epoch:N.",
    ),
    click.option(
        "--foreign-parent",
        is_flag=True,
        help="Take the model of a parent that was made with another bundle.",
    ),
    click.option(
        "--ptm",
        metavar="PATH",
        help="Pretrained weights for fine-tuning: a path, a URL or hf://ORG/NAME.",
    ),
)
_SEARCH = (
    click.option("--automl-policy", metavar="auto|on|off", help="Training is AutoML unless off."),
    click.option(
        "--request",
        metavar="TEXT",
        help="The person's own words: 'no search', 'just train', 'turn off AutoML' and the "
        "like turn AutoML off for this run. The plan says what was understood.",
    ),
    click.option(
        "--automl",
        metavar="KEY=VALUE",
        multiple=True,
        cls=AutoMLOption,
    ),
)
_PLACE = (
    click.option(
        "--env", metavar="K=V", multiple=True, help="Environment of the job; may be repeated."
    ),
    click.option(
        "--platform",
        metavar="NAME",
        default="local",
        show_default=True,
        help="Where the job runs; `mae platforms` lists them.",
    ),
    click.option(
        "--platform-option",
        metavar="KEY=VALUE",
        multiple=True,
        help="A setting of the platform, e.g. partition=gpu; may be repeated.",
    ),
    click.option(
        "--idempotency-key",
        metavar="K",
        help="The same key returns the first job made with it, and starts nothing twice.",
    ),
    skill_dir_option,
    results_root_option,
    json_option,
)


def _job_options(command: _Command) -> _Command:
    for option in reversed((*_SPEC, *_DATA, *_MODEL, *_SEARCH, *_PLACE)):
        command = option(command)
    return command


def sources(given: tuple[str, ...]) -> dict[str, Any]:
    """``NAME=URI`` options as sources; a name that is repeated has a list of them.

    Raises:
        UsageError: one of them has no name.
    """

    found: dict[str, list[str]] = {}
    for one in given:
        name, equals, uri = one.partition("=")
        if not equals or not name.strip() or not uri:
            raise UsageError("not a source", field="--source", got=one, expected="NAME=URI")
        found.setdefault(name.strip(), []).append(uri)
    return {name: one_or_several(uris) for name, uris in found.items()}


def arguments(action: str, options: dict[str, Any]) -> dict[str, Any]:
    """Command-line options as the keyword arguments of `Skill.plan` and `Skill.create_job`."""
    from mae_skill.reader import parse_overrides, read_spec

    given = {
        "spec": None if options["spec"] is None else read_spec(options["spec"]),
        **{
            name: one_or_several(options[name])
            for name in ("train_datasets", "eval_dataset", "inference_dataset")
        },
        "sources": sources(options["source"]),
        "images": options["images"],
        "parent_job_id": options["parent"],
        "checkpoint": options["checkpoint"],
        "foreign_parent": options["foreign_parent"] or None,
        "ptm": options["ptm"],
        "automl_policy": options["automl_policy"],
        "request": options["request"],
        "automl": parse_overrides(options["automl"], "automl."),
        "spec_overrides": parse_overrides(options["overrides"]),
        "recipe": options["recipe"],
        "budget": options["budget"],
        "env": environment(options["env"]),
        "platform": options["platform"],
        "platform_options": parse_overrides(options["platform_option"], "platform_options."),
        "results_root": options["results_root"],
        "idempotency_key": options["idempotency_key"],
    }
    return {
        "action": action,
        **{key: value for key, value in given.items() if value not in (None, {})},
    }


@click.command()
@_job_options
@click.option(
    "--on",
    metavar="MACHINE",
    help="Plan for a machine that you are not on, e.g. 8xA100-80G,nodes=4.",
)
@click.option("--price", metavar="PRICE", help="With --on: 2.5/gpuh, or 30/h for a node.")
@click.option(
    "--python", "as_python", is_flag=True, help="Print the equivalent SDK script instead."
)
@click.option(
    "--measure",
    is_flag=True,
    help="Time some real steps of the run (a minute or so) for the estimate of time.",
)
@click.option(
    "--no-count",
    is_flag=True,
    help="Do not fetch data behind a URL to count and judge them; the launch does it then.",
)
@click.option(
    "--full",
    is_flag=True,
    help="Every field of the spec with its origin, not only those that differ from the default.",
)
def plan(
    action: str,
    as_json: bool,
    as_python: bool,
    measure: bool,
    no_count: bool,
    full: bool,
    skill_dir: str | None,
    on: str | None,
    price: str | None,
    **options: Any,
) -> None:
    """What a job would do: spec, data, AutoML, cost, warnings. Starts nothing, writes nothing."""
    from mae_sdk import Skill
    from mae_sdk.data.progress import heard
    from mae_sdk.launch import not_launched

    with heard(say):
        machine = {"on": on, "price": price}
        asked = arguments(action, options) | {k: v for k, v in machine.items() if v is not None}
        with both_commands("plan", action, skill_dir, options):
            made = Skill(skill_dir).plan(**asked, measure=measure, count=not no_count)
    if as_python:
        click.echo(made.to_python())
        return

    document = answers.plan(made)
    emit(
        document,
        as_json=as_json,
        text=plan_text(document, full=full),
        next_commands=[] if not_launched(made) else [run_command(made, skill_dir, options)],
    )


def run_command(made: Plan, skill_dir: str | None, options: dict[str, Any]) -> str:
    """The command that launches the job that a plan names.

    Where an option holds a secret, or the spec comes through a pipe, it says that the options are
    the same.
    """
    from mae_sdk.jobs.secrets import redact_tree
    from mae_sdk.plan.plan import secret_values
    from mae_sdk.storage import urls

    words = command_words("run", made.action, skill_dir, options)
    text = shlex.join([*words, "--idempotency-key", made.key])

    shown = redact_tree([urls.redact(word) for word in words], secret_values(made))
    spec = str(options["spec"] or "")
    passes = spec == "-" or spec.startswith(("/dev/fd/", "/dev/stdin", "/proc/self/fd/"))
    if shown == words and not passes:
        return text
    same = "with the same options"
    return f"mae run {made.action} … --idempotency-key {shlex.quote(made.key)}   ({same})"


def command_words(
    verb: str, action: str, skill_dir: str | None, options: dict[str, Any]
) -> list[str]:
    """A command with the options that were given, but for the idempotency key."""
    words = ["mae", verb, action]
    for name, value in {**options, "skill_dir": skill_dir}.items():
        if name in ("overrides", "idempotency_key") or (name, value) == ("platform", "local"):
            continue
        flag = {"spec": "-e"}.get(name, f"--{name.replace('_', '-')}")
        for one in value if isinstance(value, tuple) else (value,):
            if one is True:
                words.append(flag)
            elif one not in (None, False):
                words += [flag, str(one)]
    return [*words, *options["overrides"]]


@contextlib.contextmanager
def both_commands(
    verb: str, action: str, skill_dir: str | None, options: dict[str, Any]
) -> Iterator[None]:
    """Where the words of a request leave open whether to search, show the command for each."""

    from mae_sdk.storage import urls

    try:
        yield
    except UsageError as error:
        if error.field == "request":
            words = command_words(verb, action, skill_dir, {**options, "request": None})
            command = shlex.join([urls.redact(word) for word in words])
            error.hint = (
                f"one run: {command} --automl-policy off; a search: {command} --automl-policy on"
            )
        raise


_HEAD = ("action", "stage", "job_id", "platform", "results_root", "command", "cwd")
_LAST = ("spec", "provenance", "notices", "notes", "warnings", "submission")
_UNSET = "notes on settings that nobody has set"


def plan_text(document: dict[str, Any], *, full: bool = False) -> str:
    """A plan as a page that fits a screen: what, from what, at what cost, with which warnings."""
    head = {key: document[key] for key in _HEAD if document[key] is not None}
    script = str(head["command"]) if "\n" in str(head.get("command")) else None
    if script is not None:  # shown as it is, for it to be copied
        head["command"] = "below"
    blocks = [pairs(head)]
    if script is not None:
        blocks.append("command:\n" + "\n".join(map(one_line, script.splitlines())))
    blocks += [
        _block(key, value)
        for key, value in _brief(document).items()
        if key not in (*_HEAD, *_LAST) and value not in (None, [], {})
    ]

    fields = _spec_lines(document, full=full)
    if fields:
        title = "spec" if full else "spec (fields that differ from the default)"
        limit = len(fields) if full else MAX_FIELDS
        blocks.append(f"{title}:\n" + bounded(fields, more="--full or --json", limit=limit))

    if full and document.get("submission"):
        from mae_skill.reader import dump_yaml

        texts = [dump_yaml(one) for one in document["submission"]]
        blocks.append("submission:\n" + "---\n".join(texts).rstrip())

    for key in ("notices", "notes", "warnings"):
        if document[key]:
            title = _UNSET if key == "notes" else key
            blocks.append(f"{title}:\n" + "\n".join(f"  - {sentence(it)}" for it in document[key]))
    return "\n".join(blocks)


def _brief(document: dict[str, Any]) -> dict[str, Any]:
    """The plan without what a person reads elsewhere on the page."""
    brief = dict(document)
    if document["nodes"] > 1:
        each = document["processes"]
        brief["processes"] = f"{each} a node, {each * document['nodes']} in all"
    if document["automl"]:
        study = {key: value for key, value in document["automl"].items() if key != "options"}
        searched = study.pop("knobs")
        brief["automl"] = study | {f"search {name}": text for name, text in searched.items()}
    estimates = dict(document["estimates"])
    brief["time"] = _time(estimates.pop("time", {}))
    brief["estimates"] = flatten(estimates)
    brief["sources"] = {}
    for key, seen in document["sources"].items():
        brief["sources"][key] = _source(seen)
        if seen.get("class_counts"):
            brief["sources"][f"{key} classes"] = _classes(seen)
        if left := _left_out(seen):
            brief["sources"][f"{key} left out"] = left
    brief["mappings"] = {
        row["field"]: f"{row['value']}   ({row['note']})" for row in document["mappings"]
    }
    return brief


def _time(time: dict[str, Any]) -> dict[str, Any]:
    """The time of a plan in words; every likely value with its range."""
    shown: dict[str, Any] = {}
    if not time:
        return shown
    if "seconds_study" in time:
        low, high = time["seconds_study_range"]
        shown["study"] = (
            f"{seconds(time['seconds_study'])} likely, {seconds(low)} to {seconds(high)}; "
            f"about {seconds(time['seconds_study_at_most'])} if no trial is pruned"
        )
    if "seconds_total" in time:
        low, high = time["seconds_total_range"]
        name = "a trial" if shown else "total"
        shown[name] = f"{seconds(time['seconds_total'])} likely, {seconds(low)} to {seconds(high)}"
        parts = time["parts"].items()
        shown["of it"] = ", ".join(f"{part} {seconds(value)}" for part, value in parts if value)
    for name in ("step", "epoch"):
        if f"seconds_per_{name}" in time:
            shown[name] = seconds(time[f"seconds_per_{name}"])
    return {**shown, "basis": time.get("basis")}


def _source(seen: dict[str, Any]) -> str:
    if "images" not in seen:
        return f"{seen['uri']}   ({seen.get('why', 'not counted')})"
    if "masks" in seen:
        labels = f"{seen['masks']} masks"
    else:
        labels = f"{seen['classes']} classes" if seen["classes"] else "unlabeled"
    held_out = f"; {seen['held_out']} held out" if seen.get("held_out") else ""
    looked = f"; {seen['read']} looked at" if 0 < seen.get("read", 0) < seen["images"] else ""
    use = f"; for {seen['use']}" if seen.get("use") else ""
    return f"{seen['uri']}   ({seen['images']} images, {labels}{held_out}{looked}{use})"


def _classes(seen: dict[str, Any]) -> str:
    """Class names with their numbers of images, the first few."""
    table = seen["class_counts"]
    listed = ", ".join(f"{name} {count}" for name, count in list(table.items())[:MAX_CLASSES])
    more = seen["classes"] - min(len(table), MAX_CLASSES)
    return listed + (f" and {more} more" if more else "")


def _left_out(seen: dict[str, Any]) -> str:
    """What lies in a source and is not used, by reason, with the first names."""
    parts = []
    for reason, about in (seen.get("left_out") or {}).items():
        if isinstance(about, dict) and about.get("count"):
            names = ", ".join(map(str, about.get("files") or ()))
            parts.append(f"{about['count']} {reason} ({names})")
    return "; ".join(parts)


def _block(key: str, value: Any) -> str:
    if isinstance(value, dict):
        lines = {
            name: _unit(name, item) for name, item in value.items() if item not in (None, [], {})
        }
        return f"{key}:\n{pairs(lines, '  ')}"
    if isinstance(value, list):
        return f"{key}:\n" + "\n".join(f"  {show(item)}" for item in value)
    return pairs({key: _unit(key, value)})


def _unit(name: str, value: Any) -> Any:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if name.endswith("bytes"):
            return size(value)
        if name.rpartition(".")[2].startswith("seconds") or name.endswith("seconds"):
            return seconds(value)
    return value


def _spec_lines(document: dict[str, Any], *, full: bool) -> list[str]:
    rows = []
    for key, value in flatten(document["spec"]).items():
        known = document["provenance"].get(key, {})
        origin = known.get("origin", "default")
        why = f"{origin}: {known['note']}" if "note" in known else origin
        if full or origin not in ("default", "template"):
            rows.append((key, show(value, 70), why))
    width = max((len(key) for key, _, _ in rows), default=0)
    return [f"  {key.ljust(width)}  {value}   [{origin}]" for key, value, origin in rows]


@click.command()
@_job_options
@click.option(
    "--wait", is_flag=True, help="Stay until the job ends; the exit code is then the job's."
)
def run(action: str, as_json: bool, wait: bool, skill_dir: str | None, **options: Any) -> None:
    """Launch a job; it outlives this command.

    What runs is what `mae plan` shows with the same options. With --wait a terminal shows epoch,
    figures, time left and trials; it ends with the figures, what was left out, the files and what
    comes next.
    """
    from mae_sdk import Skill
    from mae_sdk.data.progress import heard

    skill = Skill(skill_dir)
    with heard(say), both_commands("run", action, skill_dir, options):
        made = skill.plan(**arguments(action, options))
    if made.policy.understood:
        say(made.policy.understood)
    planned = answers.plan(made)
    for kind in ("notice", "note", "warning"):
        for one in planned[f"{kind}s"]:
            say(f"{kind}: {sentence(one)}")

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they are said in this command's own way
        job = skill.create_job(made)
    for notice in job.notices:
        say(f"notice: {notice}")
    if wait:
        say(f"job {job.id}")
        follow(job, as_json=as_json)

    document = answers.ended(job) if wait else answers.launched(job)
    text = ended_text(document, told={str(warning) for warning in made.warnings})
    emit(
        document,
        as_json=as_json,
        text=text,
        next_commands=next_for(job, document["state"], options["results_root"]),
    )
    if wait:
        leave_as(job)
