"""``mae inspect`` and ``mae cache``: data sources, before they cost anything."""

from __future__ import annotations

from typing import Any

import click

from mae_sdk.cli.render import bounded, emit, json_option, pairs, show, size


@click.command()
@click.argument("source", metavar="SOURCE")
@click.option(
    "--other",
    metavar="SOURCE",
    help="A second source, e.g. validation: pictures that are in both are reported.",
)
@click.option("--contact-sheet", metavar="PNG", help="Write a page of evenly spaced pictures.")
@click.option(
    "--masks",
    metavar="SOURCE",
    help="Masks of the images, for segmentation: their values and what is missing. "
    "'beside' takes annotations/ beside images/.",
)
@json_option
def inspect(
    source: str, other: str | None, contact_sheet: str | None, masks: str | None, as_json: bool
) -> None:
    """Counts, sizes, channels, classes, unreadable files by name, mean and std of a folder or
    archive, local or s3://."""
    from mae_sdk.data import inspect_masks, inspect_source

    document: dict[str, Any] = inspect_source(source, other=other, contact_sheet=contact_sheet)
    if masks:
        document["masks"] = inspect_masks(source, None if masks == "beside" else masks)
    emit(
        document,
        as_json=as_json,
        text=bounded(_lines(document), more="--json"),
        next_commands=[f"mae plan train --train-datasets {source}"],
    )


def _lines(document: dict[str, Any]) -> list[str]:
    lines: list[str] = []
    for key, value in document.items():
        if isinstance(value, dict) and value:
            lines.append(f"{key}:")
            for name, item in value.items():
                if (
                    isinstance(item, list) and item
                ):  # files, or groups of files: one line each, so that they can be read and copied
                    lines.append(f"  {name}:")
                    lines += [
                        f"    {' = '.join(map(str, one)) if isinstance(one, list) else one}"
                        for one in item
                    ]
                else:
                    lines.append(f"  {name}  {show(item)}")
        elif value not in (None, [], {}):
            lines.append(f"{key}  {size(value) if key.endswith('bytes') else show(value)}")
    return lines


@click.group(invoke_without_command=True)
@json_option
@click.pass_context
def cache(ctx: click.Context, as_json: bool) -> None:
    """The archive cache: where it is and what it holds."""
    if ctx.invoked_subcommand is not None:
        return
    from mae_sdk.data.cache import cache_info

    document = dict(cache_info())
    shown = {
        key: size(value) if key.endswith("bytes") else value for key, value in document.items()
    }
    emit(document, as_json=as_json, text=pairs(shown), next_commands=["mae cache clear"])


@cache.command()
@json_option
def clear(as_json: bool) -> None:
    """Remove every cached archive that no process is using."""
    from mae_sdk.data.cache import clear_cache

    freed = clear_cache()
    emit({"freed_bytes": freed}, as_json=as_json, text=f"freed {size(freed)}")
