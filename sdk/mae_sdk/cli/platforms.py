"""``mae platforms``: where jobs can run from here, what is missing, and how to get it."""

from __future__ import annotations

import click

from mae_sdk import answers
from mae_sdk.cli.common import emit, json_option, show


@click.command()
@click.argument("name", required=False)
@json_option
def platforms(name: str | None, as_json: bool) -> None:
    """Where jobs can run: what is there, what is missing, how to get it.

    With NAME also the settings that --platform-option and the site's file may give.
    """
    document = answers.platforms(name)
    lines = []
    for row in document["platforms"]:
        lines.append(
            f"{row['name']:<12}{'ready' if row['ready'] else 'not here':<10}{row['about']}"
        )
        lines += [f"  missing: {one['what']}\n  get it:  {one['how']}" for one in row["missing"]]
        if row["ready"]:
            has = [f"{key} {show(value)}" for key, value in row["resources"].items()]
            lines.append("  a job has at most: " + ", ".join(has))
        if name:
            lines += [
                f"  {key:<20}{one['help']}"
                + (f" (now {show(one['value'])})" if one["value"] is not None else "")
                for key, one in row["options"].items()
            ]
    lines.append(f"settings file  {document['settings_file']}")
    first = next((row["name"] for row in document["platforms"] if row["ready"]), "local")
    emit(
        document,
        as_json=as_json,
        text="\n".join(lines),
        next_commands=[
            f"mae platforms {first}" if name is None else f"mae plan train --platform {name} …"
        ],
    )
