"""``mae get-spec``, ``validate``, ``explain``, ``diff``: specs, before anything runs."""

from __future__ import annotations

from typing import Any

import click
from mae_skill.dotted import flatten, set_dotted
from mae_skill.errors import UsageError

from mae_sdk.cli.main import ACTIONS, did_you_mean
from mae_sdk.cli.render import (
    bounded,
    dumps,
    emit,
    json_option,
    pairs,
    results_root_option,
    say,
    show,
)


def _bundle(skill_dir: str | None) -> Any:
    from mae_skill.bundle import Bundle

    return Bundle.load(skill_dir)


def _known_action(bundle: Any, action: str) -> None:

    known = list(bundle.info["actions"])
    if action not in known:
        raise UsageError(
            "no such action",
            field="ACTION",
            got=action,
            expected=", ".join(known),
            hint=did_you_mean(action, known),
        )


skill_dir_option = click.option(
    "--skill-dir", metavar="DIR", help="Another bundle. Default: the packaged one."
)


@click.command("get-spec")
@click.argument("action", metavar="ACTION", required=False)
@click.option("--recipe", metavar="NAME", help="Fill in a published recipe.")
@click.option("--list-recipes", is_flag=True, help="The recipes, with what they are for.")
@click.option("-o", "--output", metavar="FILE", help="Write here instead of stdout.")
@skill_dir_option
@json_option
def get_spec(
    action: str | None,
    recipe: str | None,
    list_recipes: bool,
    output: str | None,
    skill_dir: str | None,
    as_json: bool,
) -> None:
    """The spec template of an action as YAML: every field it reads, with its default."""
    if list_recipes:
        _print_recipes(as_json)
        return

    if action is None:
        raise UsageError(
            "missing ACTION", field="ACTION", expected=", ".join(ACTIONS), hint="mae get-spec train"
        )
    bundle = _bundle(skill_dir)
    _known_action(bundle, action)
    template = bundle.template(action)
    if recipe:
        from mae_skill.recipes import recipe_spec

        for key, value in flatten(recipe_spec(recipe)).items():
            set_dotted(template, key, value)
    from mae_skill.reader import dump_yaml

    text = dumps(template) + "\n" if as_json else dump_yaml(template)
    if output:
        from pathlib import Path

        try:
            Path(output).write_text(text)
        except OSError as error:
            expected = "a file in a folder that is there and can be written"
            raise UsageError(
                "the spec cannot be written",
                field="--output",
                got=output,
                expected=expected,
                hint=str(error),
            ) from None
        say(f"wrote {output}")
        say(
            f"\nnext:\n  mae plan {action} -e {output} …   (with its data: see `mae plan --help`)"
            f"\n  mae validate {action} -e {output} KEY=VALUE"
        )
    else:
        click.echo(text, nl=False)


def _print_recipes(as_json: bool) -> None:
    from mae_skill.recipes import list_recipes

    found = list_recipes()
    emit(
        {"recipes": found},
        as_json=as_json,
        text=pairs({item["name"]: item["description"] for item in found}),
        next_commands=[f"mae get-spec train --recipe {found[0]['name']}"],
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
@skill_dir_option
@json_option
def validate(
    action: str, overrides: tuple[str, ...], spec: str, skill_dir: str | None, as_json: bool
) -> None:
    """Every error of a spec at once, as `mae plan` would find them.

    The files and data that the spec names are looked at: exit 0, 2 (the spec), 3 (data), 4 (a file)
    or 7 (a device that is missing).
    """
    bundle = _bundle(skill_dir)
    _known_action(bundle, action)
    from mae_skill.reader import parse_override
    from mae_skill.resolve import raise_all

    from mae_sdk.cli.run import in_order
    from mae_sdk.plan.layers import resolve_spec

    asked = in_order(parse_override(item) for item in overrides)
    found, _ = resolve_spec(bundle, action, spec, asked)
    raise_all(found.errors, action)
    listed = [
        warning.to_dict() if hasattr(warning, "to_dict") else str(warning)
        for warning in found.warnings
    ]
    text = "valid" + "".join(
        f"\nwarning: {item['field']}: {item['message']}"
        if isinstance(item, dict)
        else f"\nwarning: {item}"
        for item in listed
    )
    emit(
        {"valid": True, "warnings": listed},
        as_json=as_json,
        text=text,
        next_commands=[f"mae plan {action} -e {spec}"],
    )


@click.command()
@click.argument("key", metavar="KEY")
@click.option("--action", default="train", show_default=True, help="Whose schema.")
@skill_dir_option
@json_option
def explain(key: str, action: str, skill_dir: str | None, as_json: bool) -> None:
    """What a spec field is, when it acts, what it does with its neighbours, where its default comes
    from.
    """
    from mae_skill.explain import explain as explain_field

    bundle = _bundle(skill_dir)
    _known_action(bundle, action)
    found = explain_field(bundle.schema(action), key)
    document = found if isinstance(found, dict) else found.to_dict()
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
    from mae_skill.diff import diff_specs

    changes = diff_specs(_spec_of(first, results_root), _spec_of(second, results_root))
    rows = [change if isinstance(change, dict) else change.to_dict() for change in changes]
    lines = [
        f"{row['key']}  {show(row.get('a', row.get('old')))} → {show(row.get('b', row.get('new')))}"
        for row in rows
    ]
    emit({"changes": rows}, as_json=as_json, text=bounded(lines, more="--json") or "no difference")


def _spec_of(name: str, results_root: str | None) -> dict[str, Any]:
    from pathlib import Path

    from mae_skill.reader import parse_yaml, read_spec

    if name == "-" or Path(name).is_file():
        return read_spec(name)
    from mae_sdk.jobs.root import Root

    root = Root(results_root)
    job_id = root.resolve(name)
    return dict(parse_yaml(root.read(job_id, "spec.yaml").decode(), f"the spec of {job_id}"))
