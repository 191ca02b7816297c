"""``mae doctor``: what is here, what is missing, and how to get it."""

from __future__ import annotations

from typing import Any

import click

from mae_sdk.cli.common import emit, json_option, pairs, results_root_option, root_flag, size


@click.command()
@results_root_option
@json_option
def doctor(results_root: str | None, as_json: bool) -> None:
    """What is installed, devices, disk, cache, credentials by name, and how to get the rest.

    Nothing is started and no network is asked.
    """
    from mae_sdk.run.doctor import examine

    document = examine(results_root)
    first = (
        "mae quickstart" if document["verdict"]["can_train"] else "pip install 'mae-skill[train]'"
    )
    emit(
        document,
        as_json=as_json,
        text="\n".join(_lines(document)),
        next_commands=[first, "mae platforms", f"mae jobs list{root_flag(results_root)}"],
    )


def _lines(document: dict[str, Any]) -> list[str]:
    lines = [f"verdict  {document['verdict']['said']}"]
    lines += [f"problem: {text}" for text in document["problems"]]
    lines.append(pairs(document["versions"]))

    devices = document["devices"]
    gpus = f"{len(devices['gpus'])} × {devices['gpu_model'] or 'model unknown'}"
    memory = "unknown" if devices["memory_mb"] is None else size(devices["memory_mb"] * 2**20)
    shown = {"gpus": gpus if devices["gpus"] else "none", "cpu_cores": devices["cpu_cores"]}
    lines.append(pairs({**shown, "memory": memory}))

    for name in ("results", "cache"):
        if about := document["disk"].get(name):
            lines.append(f"{name}  {about['folder']}   ({size(about['free_bytes'])} free)")
    if "results" not in document["disk"]:
        lines.append(f"results  {document['disk']['results_root']}")

    lines.append("extras:")
    for name, row in document["extras"].items():
        state = "missing " + ", ".join(row["missing"]) if row["missing"] else "installed"
        lines.append(f"  {name:<13} {row['use']}: {state}")
    wanted = [name for name, row in document["extras"].items() if row["missing"]]
    if wanted:
        lines.append(f"  get them: pip install 'mae-skill[{','.join(wanted)}]' (or only some)")

    lines.append("credentials (names only):")
    for use, found in document["credentials"].items():
        here = [*found["set"], *found["files"]]
        lines.append(f"  {use:<17} {', '.join(here) if here else 'none'}")
    return lines
