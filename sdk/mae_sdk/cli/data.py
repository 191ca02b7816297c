"""``mae inspect`` and ``mae cache``: data sources, before they cost anything."""

from __future__ import annotations

import shlex
from typing import Any

import click
from mae_skill.errors import DataError
from mae_skill.spelling import one_line

from mae_sdk import answers
from mae_sdk.cli.common import bounded, emit, json_option, pairs, say, show, size, table
from mae_sdk.storage import urls


@click.command()
@click.argument("source", metavar="[SOURCE]", required=False)
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option(
    "--other",
    metavar="SOURCE",
    help="A second source, e.g. validation: images that are in both are reported.",
)
@click.option("--train", metavar="SOURCE", help="With --eval, in place of SOURCE: both are judged.")
@click.option("--eval", "evaluation", metavar="SOURCE", help="The validation data, with --train.")
@click.option("--contact-sheet", metavar="PNG", help="Write a page of evenly spaced images.")
@click.option(
    "--masks",
    metavar="SOURCE",
    help="Masks of the images, for segmentation: their values and what is missing. "
    "'beside' takes annotations/ beside images/.",
)
@click.option(
    "-e",
    "--experiment_spec",
    "spec",
    metavar="FILE",
    help="A spec, whose dataset.channels, value_range and the like count.",
)
@json_option
def inspect(
    source: str | None,
    overrides: tuple[str, ...],
    other: str | None,
    train: str | None,
    evaluation: str | None,
    contact_sheet: str | None,
    masks: str | None,
    spec: str | None,
    as_json: bool,
) -> int:
    """What a folder or archive holds, local or s3://, and whether it can be trained on.

    Counts, sizes, channels, depths, classes, unreadable files with their reasons, mean and std, as
    a run with these settings reads them. Exit 3 when the data cannot be trained on as they are.
    With --train and --eval both parts are read, judged and compared.
    """
    from mae_skill.reader import parse_overrides

    from mae_sdk.data.progress import heard

    if source is not None and "=" in source and (train or evaluation):  # the first KEY=VALUE
        overrides = (source, *overrides)
        source = None
    if (source is None) != bool(train and evaluation) or bool(train) != bool(evaluation):
        raise click.UsageError("give one SOURCE, or --train and --eval")
    settings = parse_overrides(overrides)
    if train and evaluation:
        if other or contact_sheet or masks:
            raise click.UsageError("--other, --masks and --contact-sheet go with one SOURCE")
        with heard(say):
            found = answers.inspect_splits(train, evaluation, spec=spec, spec_overrides=settings)
        step = answers.first_training(found["splits"]["train"], spec=spec, spec_overrides=settings)
        return _emit_splits(found, train, evaluation, step, as_json)
    assert source is not None
    with heard(say):
        document = answers.inspect(
            source,
            other=other,
            contact_sheet=contact_sheet,
            masks=masks,
            spec=spec,
            spec_overrides=settings,
        )
    usable = document["verdict"]["usable"]
    step = answers.first_training(document, masks=masks, spec=spec, spec_overrides=settings)
    again = answers.reading_masks(document)
    emit(
        document,
        as_json=as_json,
        text=bounded(_lines(document), more="--json"),
        next_commands=[again] if again else [_next(step, source)] if usable else [],
    )
    return 0 if usable else DataError.exit_code


def _emit_splits(
    document: dict[str, Any], train: str, evaluation: str, step: answers.Step, as_json: bool
) -> int:
    """Print what was found of two parts; the exit code."""

    usable = document["verdict"]["usable"]
    compared, splits = document["compared"], document["splits"]
    lines = _verdict(document["verdict"])
    lines.append(f"shared images  {compared['shared']['count']}")
    lines += [f"  {' = '.join(pair)}" for pair in compared["shared"]["pairs"]]
    if compared["share"] is not None:
        lines.append(f"for validation  {compared['share']:.1%} of all images")
    if compared["missing"]:
        lines.append(f"classes without a validation image  {', '.join(compared['missing'])}")
    lines.append("")
    lines += _side_by_side(splits["train"], splits["eval"])
    emit(
        document,
        as_json=as_json,
        text=bounded(lines, more="--json"),
        next_commands=[_next(step, train, evaluation)] if usable else [],
    )
    return 0 if usable else DataError.exit_code


def _side_by_side(train: dict[str, Any], evaluation: dict[str, Any]) -> list[str]:
    """The two parts in columns: counts, sizes, then every class."""

    def middle(report: dict[str, Any]) -> str:
        if not report["width"]:
            return "-"
        return f"{report['width']['median']} × {report['height']['median']}"

    both = (train, evaluation)
    rows: list[list[Any]] = [
        ["images", *(one["images"] for one in both)],
        ["unreadable", *(one["unreadable"]["count"] for one in both)],
        ["unlabeled", *(one["unlabelled"] for one in both)],
        ["median size", *(middle(one) for one in both)],
        ["formats", *(", ".join(one["formats"]) for one in both)],
        ["channels", *(", ".join(one["channels"]) for one in both)],
        ["equal images", *(one["duplicates"]["count"] for one in both)],
    ]
    names = dict.fromkeys([*train["classes"], *evaluation["classes"]])
    rows += [[f"class {name}", *(one["classes"].get(name, "-") for one in both)] for name in names]
    return table(rows, ("", "TRAIN", "EVAL")).splitlines()


def _next(step: answers.Step, source: str, evaluation: str | None = None) -> str:
    """The plan that fits the data."""
    named = shlex.quote(urls.seal(source))
    if evaluation is not None:
        named += f" --eval-dataset {shlex.quote(urls.seal(evaluation))}"
    return answers.command_of(step, verb="plan").replace(" URI", f" {named}", 1)


def _verdict(verdict: dict[str, Any]) -> list[str]:
    lines = [
        "verdict  these data can be trained on"
        if verdict["usable"]
        else "verdict  these data cannot be trained on as they are"
    ]
    for kind in ("problems", "warnings"):
        lines += [f"  {kind.removesuffix('s')}: {text}" for text in verdict[kind]]
    return lines


_FACTS = frozenset(["class_counts", "read", "bad"])
"""What others of the document say too."""


def _lines(document: dict[str, Any]) -> list[str]:
    lines = _verdict(document["verdict"])
    for key, value in document.items():
        if key == "verdict" or key in _FACTS:
            continue
        if isinstance(value, dict) and value:
            lines.append(f"{key}:")
            for name, item in value.items():
                lines += _item_lines(name, item)
        elif value not in (None, [], {}):
            lines.append(f"{key}  {size(value) if key.endswith('bytes') else show(value)}")
    return lines


def _item_lines(name: str, item: Any) -> list[str]:
    if not isinstance(item, list) or not item:
        return [f"  {name}  {show(item)}"]
    # Files, or groups of equal files: one per line, so that they can be read and copied.
    groups = [" = ".join(map(str, one)) if isinstance(one, list) else str(one) for one in item]
    return [f"  {name}:", *(f"    {one_line(group)}" for group in groups)]


@click.group(invoke_without_command=True)
@json_option
@click.pass_context
def cache(ctx: click.Context, as_json: bool) -> None:
    """The archive cache, and the working copies of jobs behind a URL: where, and how much."""
    if ctx.invoked_subcommand is not None:
        return
    document = answers.cache()
    shown = {
        key: size(value) if key.endswith("bytes") else value for key, value in document.items()
    }
    emit(document, as_json=as_json, text=pairs(shown), next_commands=["mae cache clear"])


@cache.command()
@json_option
def clear(as_json: bool) -> None:
    """Remove cached archives that no process is using, and working copies that are spare."""
    document = answers.clear_cache()
    emit(document, as_json=as_json, text=f"freed {size(document['freed_bytes'])}")
