"""``mae plan`` and ``mae run``: the dry run and the launch, with the same options."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import click
from mae_skill.dotted import flatten

from mae_sdk.cli.main import ACTIONS
from mae_sdk.cli.render import (
    bounded,
    emit,
    json_option,
    pairs,
    results_root_option,
    say,
    seconds,
    show,
    size,
)


class AutoMLOption(click.Option):
    """``--automl``: its help names every key, and loads their model only when help is asked for."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        from mae_sdk.automl.options import AutoMLOptions

        keys = ", ".join([*AutoMLOptions.model_fields, "range.KEY"])
        self.help = f"An AutoML setting, e.g. max_trials=8; may be repeated. Keys: {keys}."
        return super().get_help_record(ctx)


def _job_options(command: Callable[..., Any]) -> Callable[..., Any]:
    options = [
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
            help="A published recipe as the base; see `mae get-spec train --list-recipes`.",
        ),
        click.option(
            "--train-datasets",
            metavar="URI",
            multiple=True,
            help="Folder or archive of training images; may be repeated.",
        ),
        click.option(
            "--eval-dataset", metavar="URI", help="Folder or archive of validation images."
        ),
        click.option(
            "--inference-dataset", metavar="URI", help="Folder or archive of images to predict."
        ),
        click.option(
            "--parent", metavar="JOB", help="The job whose model this one takes: an id or a prefix."
        ),
        click.option(
            "--checkpoint",
            metavar="POLICY",
            help="Which of the parent's checkpoints: best (default), latest or epoch:N.",
        ),
        click.option(
            "--ptm", metavar="PATH", help="Pretrained weights for fine-tuning: a path or URL."
        ),
        click.option(
            "--automl-policy", metavar="auto|on|off", help="Training is AutoML unless off."
        ),
        click.option(
            "--request",
            metavar="TEXT",
            help="The person's own words; 'no HPO', 'plain training' turn AutoML off for this run.",
        ),
        click.option(
            "--automl",
            metavar="KEY=VALUE",
            multiple=True,
            cls=AutoMLOption,
        ),
        click.option(
            "--env", metavar="K=V", multiple=True, help="Environment of the job; may be repeated."
        ),
        click.option(
            "--platform",
            metavar="NAME",
            default="local",
            show_default=True,
            help="Where the job runs.",
        ),
        click.option(
            "--idempotency-key",
            metavar="K",
            help="The same key returns the same job, and starts nothing twice.",
        ),
        click.option(
            "--skill-dir", metavar="DIR", help="Another bundle. Default: the packaged one."
        ),
        results_root_option,
        json_option,
    ]
    for option in reversed(options):
        command = option(command)
    return command


def arguments(action: str, options: dict[str, Any]) -> dict[str, Any]:
    """Command-line options as the keyword arguments of `Skill.plan` and `Skill.create_job`."""
    from mae_skill.reader import parse_override, read_spec

    datasets = list(options["train_datasets"])
    given = {
        "spec": None if options["spec"] is None else read_spec(options["spec"]),
        "train_datasets": datasets[0] if len(datasets) == 1 else datasets or None,
        "eval_dataset": options["eval_dataset"],
        "inference_dataset": options["inference_dataset"],
        "parent_job_id": options["parent"],
        "checkpoint": options["checkpoint"],
        "ptm": options["ptm"],
        "automl_policy": options["automl_policy"],
        "request": options["request"],
        "automl": in_order(parse_override(item) for item in options["automl"]),
        "spec_overrides": in_order(parse_override(item) for item in options["overrides"]),
        "recipe": options["recipe"],
        "env": environment(options["env"]),
        "platform": options["platform"],
        "results_root": options["results_root"],
        "idempotency_key": options["idempotency_key"],
    }
    return {
        "action": action,
        **{key: value for key, value in given.items() if value not in (None, {})},
    }


def in_order(settings: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Settings as a mapping in which one given again stands where it was given last: it wins over
    all before it."""
    found: dict[str, Any] = {}
    for key, value in settings:
        found.pop(key, None)
        found[key] = value
    return found


def environment(settings: Iterable[str]) -> dict[str, str]:
    """``NAME=VALUE`` texts as a mapping.

    Raises:
        UsageError: one has no name or no ``=``.
    """
    from mae_skill.errors import UsageError

    found = {}
    for item in settings:
        name, separator, value = item.partition("=")
        if not separator or not name:
            raise UsageError(
                "not an environment setting", field="--env", got=item, expected="NAME=VALUE"
            )
        found[name] = value
    return found


def _check_action(action: str) -> None:
    from mae_skill.errors import UsageError

    from mae_sdk.cli.main import did_you_mean

    if not action.replace("_", "").isalnum():
        raise UsageError(
            "no such action",
            field="ACTION",
            got=action,
            expected=", ".join(ACTIONS),
            hint=did_you_mean(action, ACTIONS),
        )


@click.command()
@_job_options
@click.option(
    "--python", "as_python", is_flag=True, help="Print the equivalent SDK script instead."
)
@click.option(
    "--measure",
    is_flag=True,
    help="Time some real steps of the run (a minute or so) for the estimate of time.",
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
    full: bool,
    skill_dir: str | None,
    **options: Any,
) -> None:
    """What a job would do: spec, data, AutoML, cost, warnings. Starts nothing, writes nothing."""
    _check_action(action)
    from mae_sdk import Skill

    call = arguments(action, options)
    made = Skill(skill_dir).plan(**call, measure=measure)
    if as_python:
        click.echo(made.to_python())
        return
    document = made.to_dict()
    emit(
        document,
        as_json=as_json,
        text=plan_text(document, full=full),
        next_commands=document.get("next") or [_launch(action)],
    )


def _launch(action: str) -> str:
    return f"mae run {action} …   (the same options: launches exactly this plan)"


def plan_text(document: dict[str, Any], *, full: bool = False) -> str:
    """A plan as a page that fits a screen: what, from what, at what cost, what to mind."""
    head: dict[str, Any] = {}
    for key in ("action", "stage", "job_id", "platform", "results_root", "command"):
        if document.get(key) is not None:
            head[key] = document[key]
    blocks = [pairs(head)]
    for key, value in _brief(document).items():
        if (
            key in head
            or key in ("spec", "provenance", "warnings", "next", "notices")
            or value in (None, [], {})
        ):
            continue
        blocks.append(_block(key, value))
    spec = _spec_lines(document, full=full)
    if spec:
        title = "spec" if full else "spec (fields that differ from the default)"
        blocks.append(
            title + ":\n" + bounded(spec, more="--full or --json", limit=10_000 if full else 40)
        )
    for key in ("notices", "warnings"):
        if document.get(key):
            blocks.append(
                f"{key}:\n" + "\n".join(f"  - {_sentence(item)}" for item in document[key])
            )
    return "\n".join(blocks)


def _brief(document: dict[str, Any]) -> dict[str, Any]:
    """The plan without what a person reads elsewhere on the page."""
    brief = dict(document)
    if isinstance(brief.get("automl"), dict):
        brief["automl"] = {key: value for key, value in brief["automl"].items() if key != "options"}
        parameters = brief["automl"].pop("knobs", {})
        brief["automl"] |= {f"search {name}": text for name, text in parameters.items()}
    if isinstance(brief.get("estimates"), dict):
        brief["estimates"] = flatten(brief["estimates"])
    if isinstance(brief.get("sources"), dict):
        brief["sources"] = {key: _source(seen) for key, seen in brief["sources"].items()}
    if isinstance(brief.get("mappings"), list):
        brief["mappings"] = {
            row["field"]: f"{row['value']}   ({row['note']})" for row in brief["mappings"]
        }
    return brief


def _source(seen: dict[str, Any]) -> str:
    if "images" not in seen:
        return f"{seen['uri']}   ({seen.get('why', 'not counted')})"
    if "masks" in seen:
        labels = f"{seen['masks']} masks"
    else:
        labels = f"{seen['classes']} classes" if seen["classes"] else "unlabelled"
    held = f"; {seen['held_out']} held out" if seen.get("held_out") else ""
    return f"{seen['uri']}   ({seen['images']} images, {labels}{held})"


def _sentence(item: Any) -> str:
    if isinstance(item, dict):
        text = (
            f"{item['field']}: {item['message']}"
            if item.get("field")
            else str(item.get("message", item))
        )
        return f"{text} ({item['hint']})" if item.get("hint") else text
    return str(item)


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

    provenance = document.get("provenance") or {}
    rows = []
    for key, value in flatten(document.get("spec") or {}).items():
        origin = provenance.get(key)
        name = (
            origin.get("origin", origin.get("source", ""))
            if isinstance(origin, dict)
            else str(origin or "default")
        )
        if full or name not in ("default", "template"):
            rows.append((key, show(value, 70), name))
    width = max((len(row[0]) for row in rows), default=0)
    return [f"  {key.ljust(width)}  {value}   [{origin}]" for key, value, origin in rows]


@click.command()
@_job_options
@click.option(
    "--wait", is_flag=True, help="Stay until the job ends; the exit code is then the job's."
)
def run(action: str, as_json: bool, wait: bool, skill_dir: str | None, **options: Any) -> None:
    """Launch a job; it outlives this command.

    What `mae plan` shows with the same options is what runs.
    """
    _check_action(action)
    from mae_sdk import Skill

    call = arguments(action, options)
    made = Skill(skill_dir)
    prepared = made.plan(**call)
    for warning in prepared.to_dict().get("warnings") or []:
        say(f"warning: {_sentence(warning)}")
    job = made.create_job(prepared)
    from mae_sdk.cli.jobs import follow, next_for, root_flag

    where = root_flag(options["results_root"])
    if wait:
        say(f"job {job.id}")
        follow(job, as_json=as_json)
    document: dict[str, Any] = {
        "job_id": job.id,
        "action": action,
        "state": str(job.state),
        "folder": str(job.folder),
    }
    made_files = [str(path) for path in job.files()] if wait else []
    if made_files:
        document["files"] = made_files[:20]
        document |= {"more_files": len(made_files) - 20} if len(made_files) > 20 else {}
    text = pairs({key: value for key, value in document.items() if key != "files"})
    emit(
        document,
        as_json=as_json,
        text="\n".join([text, *document.get("files", [])]),
        next_commands=next_for(job.id, str(job.state), action, where),
    )
    if wait:
        from mae_sdk.cli.jobs import leave_as

        leave_as(job)
