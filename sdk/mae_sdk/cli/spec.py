"""``mae get-spec``, ``validate``, ``explain``, ``diff``: specs, before anything runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from mae_skill.dotted import flatten, set_dotted
from mae_skill.errors import MaeError, UsageError

from mae_sdk import answers
from mae_sdk.cli.common import (
    ACTIONS,
    bounded,
    dumps,
    emit,
    json_option,
    one_or_several,
    pairs,
    results_root_option,
    say,
    sentence,
    show,
    skill_dir_option,
)

if TYPE_CHECKING:
    from mae_skill.bundle import Bundle


@click.command("get-spec")
@click.argument("action", metavar="ACTION", required=False)
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option(
    "--recipe",
    metavar="NAME",
    help="Fill in a published recipe; auto: one made for the images of --train-datasets.",
)
@click.option(
    "--train-datasets",
    metavar="URI",
    multiple=True,
    help="The images that --recipe auto looks at; may be repeated.",
)
@click.option(
    "--eval-dataset",
    metavar="URI",
    multiple=True,
    help="The validation images beside them; may be repeated.",
)
@click.option("--budget", metavar="TIME", help="Time of a run for --recipe auto: 10m, 2h, 8gpuh.")
@click.option("--list-recipes", is_flag=True, help="The recipes, with what they are for.")
@click.option("-o", "--output", metavar="FILE", help="Write here instead of stdout.")
@skill_dir_option
@json_option
def get_spec(
    action: str | None,
    overrides: tuple[str, ...],
    recipe: str | None,
    train_datasets: tuple[str, ...],
    eval_dataset: tuple[str, ...],
    budget: str | None,
    list_recipes: bool,
    output: str | None,
    skill_dir: str | None,
    as_json: bool,
) -> None:
    """The spec template of an action as YAML: every field it reads, with its default.

    KEY=VALUE puts a value of yours in its place.
    """
    from mae_skill.bundle import Bundle
    from mae_skill.reader import dump_yaml

    if list_recipes:
        _print_recipes(as_json)
        return
    if action is None:
        raise UsageError(
            "missing ACTION", field="ACTION", expected=", ".join(ACTIONS), hint="mae get-spec train"
        )

    asked = {
        "train_datasets": one_or_several(train_datasets),
        "eval_dataset": one_or_several(eval_dataset),
        "budget": budget,
    }
    given = {name: value for name, value in asked.items() if value is not None}
    if recipe == "auto":
        template = _auto_spec(skill_dir, action, overrides, given)
    else:
        if given:
            raise UsageError(
                "a template looks at no data",
                field="get-spec",
                got=[*given],
                expected="--recipe auto beside them",
                hint="give them to `mae plan` or `mae run`",
            )
        bundle = Bundle.load(skill_dir)
        template = bundle.template(action)
        for key, value in flatten(_published(recipe) if recipe else {}).items():
            set_dotted(template, key, value)
        if overrides:
            template = _with_values(bundle, action, template, overrides)

    text = dumps(template) + "\n" if as_json else dump_yaml(template)
    if output is None:
        click.echo(text, nl=False)
        return
    try:
        _output_of(output, as_json, skill_dir).write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(
            "the spec cannot be written",
            field="--output",
            got=output,
            expected="a file in a writable folder",
            hint=str(error),
        ) from None
    say(f"wrote {output}")
    say(
        f"\nnext:\n  mae plan {action} -e {output} …   (with its data: see `mae plan --help`)"
        f"\n  mae validate {action} -e {output} KEY=VALUE"
    )


def _output_of(output: str, as_json: bool, skill_dir: str | None) -> Path:
    """The file of ``-o``.

    Raises:
        UsageError: it may not be written.
    """
    from mae_skill.bundle import Bundle
    from mae_skill.reader import parse_yaml

    from mae_sdk.storage.output_files import OutputKind, output_file

    def is_spec(head: bytes) -> bool:
        """Whether a file holds sections of this bundle's specs, and nothing else."""
        try:
            old = parse_yaml(head.decode())
        except (MaeError, ValueError):
            return False
        bundle = Bundle.load(skill_dir)
        sections = {name for action in bundle.actions for name in bundle.template(action)}
        return isinstance(old, dict) and bool(old) and set(old) <= sections

    # JSON is YAML as well, YAML is no JSON.
    suffixes = (".json", ".yaml", ".yml") if as_json else (".yaml", ".yml")
    return output_file(output, OutputKind("a spec", suffixes, is_spec), "--output")


def _published(recipe: str) -> dict[str, Any]:
    from mae_skill.recipes import recipe_spec

    return recipe_spec(recipe)


def _with_values(
    bundle: Bundle, action: str, template: dict[str, Any], overrides: tuple[str, ...]
) -> dict[str, Any]:
    """A template with values of the person's in their places.

    Raises:
        SpecError: one of them cannot be; what a template leaves open is no fault of theirs.
    """
    from mae_skill.origin import OriginKind
    from mae_skill.reader import parse_overrides
    from mae_skill.resolve import raise_all

    from mae_sdk.plan.layers import resolve_spec

    asked = parse_overrides(overrides)
    found, _ = resolve_spec(bundle, action, template, asked, looks=False)
    theirs = {OriginKind.OVERRIDE, OriginKind.SHORTHAND}
    named = {*asked, *(key for key, origin in found.provenance.items() if origin.kind in theirs)}
    raise_all([error for error in found.errors if error.field in named], action)
    return found.spec


def _auto_spec(
    skill_dir: str | None, action: str, overrides: tuple[str, ...], options: dict[str, Any]
) -> dict[str, Any]:
    """The spec of a plan under the auto recipe, without the folder of the planned job."""
    from mae_skill.reader import parse_overrides

    from mae_sdk import Skill
    from mae_sdk.data.progress import heard

    with heard(say):
        made = Skill(skill_dir).plan(
            action,
            recipe="auto",
            automl_policy="off",
            spec_overrides=parse_overrides(overrides),
            **options,
        )
    for item in made.inferred:
        if item.function == "output_dir":
            set_dotted(made.spec, item.field, None)
    return made.spec


def _print_recipes(as_json: bool) -> None:
    document = answers.recipes()
    recipes = document["recipes"]
    emit(
        document,
        as_json=as_json,
        text=pairs({recipe["name"]: recipe["description"] for recipe in recipes}),
        next_commands=[f"mae get-spec train --recipe {recipes[0]['name']}"],
    )


@click.command()
@click.argument("action", metavar="ACTION")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option(
    "-e",
    "--experiment_spec",
    "spec",
    metavar="FILE",
    required=True,
    help="The spec, YAML or JSON; - is stdin.",
)
@click.option(
    "--no-count", is_flag=True, help="Do not fetch data behind a URL to count and judge them."
)
@skill_dir_option
@json_option
def validate(
    action: str,
    overrides: tuple[str, ...],
    spec: str,
    no_count: bool,
    skill_dir: str | None,
    as_json: bool,
) -> None:
    """Every error of a spec at once, as `mae plan` would find them.

    The files and data that the spec names are looked at: exit 0, 2 (the spec), 3 (data), 4 (a file)
    or 7 (a device that is missing).
    """
    from mae_skill.bundle import Bundle
    from mae_skill.reader import parse_overrides
    from mae_skill.resolve import raise_all

    from mae_sdk.data.progress import heard
    from mae_sdk.plan.layers import resolve_spec

    given = parse_overrides(overrides)
    with heard(say):
        bundle = Bundle.load(skill_dir)
        resolution, _ = resolve_spec(bundle, action, spec, given, count=not no_count)
    raise_all(resolution.errors, action)

    document = answers.valid(resolution, bundle.data_rows(action))
    lines = [
        f"{kind}: {sentence(item)}" for kind in ("note", "warning") for item in document[f"{kind}s"]
    ]
    emit(
        document,
        as_json=as_json,
        text="\n".join(["valid", *lines]),
        next_commands=[f"mae plan {action} -e {spec}"],
    )


@click.command()
@click.argument("key", metavar="KEY")
@click.option("--action", default="train", show_default=True, help="Whose schema.")
@skill_dir_option
@json_option
def explain(key: str, action: str, skill_dir: str | None, as_json: bool) -> None:
    """What a spec field is, when it acts, how it relates to others, where its default is from."""
    from mae_skill.bundle import Bundle

    document = answers.explain(Bundle.load(skill_dir), key, action)
    lines = [
        line
        for name, value in document.items()
        if value not in (None, [], {})
        for line in _field_lines(name, value)
    ]
    emit(document, as_json=as_json, text=bounded(lines, more="--json", limit=120))


def _field_lines(name: str, value: Any) -> list[str]:
    if isinstance(value, dict):
        return [f"{name}:", *(f"  {key}  {show(item)}" for key, item in value.items())]
    if isinstance(value, list) and value and isinstance(value[0], (dict, list)):
        return [f"{name}:", *(f"  {show(item)}" for item in value)]
    return [f"{name.ljust(12)}  {show(value, 600)}"]


@click.command()
@click.argument("first", metavar="A")
@click.argument("second", metavar="B")
@results_root_option
@json_option
def diff(first: str, second: str, results_root: str | None, as_json: bool) -> None:
    """What differs between two specs: files, or jobs by id."""
    from mae_sdk.jobs.secrets import note_fields

    specs = [_spec_of(name, results_root) for name in (first, second)]
    note_fields(specs)
    document = answers.diff(*specs)
    lines = [f"{row['key']}  {show(row['a'])} → {show(row['b'])}" for row in document["changes"]]
    emit(document, as_json=as_json, text=bounded(lines, more="--json") or "no difference")


def _spec_of(name: str, results_root: str | None) -> dict[str, Any]:
    from mae_skill.reader import parse_yaml, read_spec

    from mae_sdk.jobs.root import Root

    if name == "-" or Path(name).is_file():
        return read_spec(name)
    root = Root(results_root)
    job_id = root.resolve(name)
    return dict(parse_yaml(root.read(job_id, "spec.yaml").decode(), f"the spec of {job_id}"))
