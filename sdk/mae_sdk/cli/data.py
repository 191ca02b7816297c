"""``mae inspect`` and ``mae cache``: data sources, before they cost anything."""

from __future__ import annotations

import shlex
from typing import Any

import click
from mae_skill.spelling import one_line

from mae_sdk import answers
from mae_sdk.cli.common import bounded, emit, in_order, json_option, pairs, say, show, size
from mae_sdk.storage import urls


@click.command()
@click.argument("source", metavar="SOURCE")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option(
    "--other",
    metavar="SOURCE",
    help="A second source, e.g. validation: images that are in both are reported.",
)
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
    source: str,
    overrides: tuple[str, ...],
    other: str | None,
    contact_sheet: str | None,
    masks: str | None,
    spec: str | None,
    as_json: bool,
) -> int:
    """What a folder or archive holds, local or s3://, and whether it can be trained on.

    Counts, sizes, channels, depths, classes, unreadable files with their reasons, mean and std, as
    a run with these settings reads them. Exit 3 when the data cannot be trained on as they are.
    """
    from mae_skill.errors import DataError
    from mae_skill.reader import parse_override

    from mae_sdk.data.progress import heard

    with heard(say):
        document = answers.inspect(
            source,
            other=other,
            contact_sheet=contact_sheet,
            masks=masks,
            spec=spec,
            spec_overrides=in_order(parse_override(item) for item in overrides),
        )
    usable = document["verdict"]["usable"]
    emit(
        document,
        as_json=as_json,
        text=bounded(_lines(document), more="--json"),
        next_commands=[_next(document, source)] if usable else [],
    )
    return 0 if usable else DataError.exit_code


def _next(document: dict[str, Any], source: str) -> str:
    """The plan that fits the data."""
    command = answers.command_of(answers.first_training(document), verb="plan")
    return command.replace(" URI", f" {shlex.quote(urls.seal(source))}", 1)


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
    """The archive cache: where it is and what it holds."""
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
    """Remove every cached archive that no process is using."""
    document = answers.clear_cache()
    emit(document, as_json=as_json, text=f"freed {size(document['freed_bytes'])}")
