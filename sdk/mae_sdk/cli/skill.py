"""``mae skill …``, ``mae mcp``, ``mae completion``: the bundle as agents and shells meet it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import click

from mae_sdk import files
from mae_sdk.cli.render import emit, json_option

AGENT_FOLDERS = {
    "claude": "~/.claude/skills",
    "codex": "~/.codex/skills",
    "agents": "~/.agents/skills",
    "cursor": "~/.cursor/skills",
    "gemini": "~/.gemini/skills",
}
"""Where the usual agents look for skills."""


@click.group()
def skill() -> None:
    """The bundle: validate, generate, install."""


@skill.command()
@click.argument("directory", metavar="[DIR]", required=False)
@json_option
def validate(directory: str | None, as_json: bool) -> None:
    """Whether a bundle is whole: front matter, schemas, templates, skill_info, links.

    Exit 0 or 2.
    """
    from mae_skill.errors import SpecError

    from mae_sdk.cli.bundle_check import check_bundle

    root, problems = check_bundle(directory)
    if problems:
        raise SpecError("the bundle is not whole", problems=problems)
    emit(
        {"valid": True, "bundle": str(root)},
        as_json=as_json,
        text=f"valid: {root}",
        next_commands=["mae skill install --dest DIR"],
    )


@skill.command()
@click.option("--check", is_flag=True, help="Write nothing; exit 2 when a generated file is stale.")
@json_option
def generate(check: bool, as_json: bool) -> None:
    """Write schemas, manifest, templates and tables from the models (a maintainer's command, in a
    checkout)."""
    from mae_skill.errors import SpecError
    from mae_skill.generate import generate as write_generated

    from mae_sdk.automl.options import write_page

    changed = [str(path) for path in write_generated(check=check)]
    changed += write_page(check=check)
    if check and changed:
        raise SpecError("generated files are stale", got=changed, hint="mae skill generate")
    emit(
        {"changed": changed, "checked": check},
        as_json=as_json,
        text="\n".join(changed) or "everything is current",
    )


@skill.command()
@click.option(
    "--dest",
    metavar="DIR",
    help="The folder that holds skills; the bundle becomes a folder inside it.",
)
@click.option(
    "--agent",
    "agents",
    multiple=True,
    type=click.Choice(sorted(AGENT_FOLDERS)),
    help="An agent's own folder, by name; may be repeated.",
)
@click.option("--force", is_flag=True, help="Replace an installed copy.")
@json_option
def install(dest: str | None, agents: tuple[str, ...], force: bool, as_json: bool) -> None:
    """Copy the bundle and its AutoML companion to where agents look for skills."""
    from mae_skill.bundle import find_bundle_root
    from mae_skill.errors import UsageError

    targets = [Path(dest).expanduser()] if dest else []
    targets += [Path(AGENT_FOLDERS[name]).expanduser() for name in agents]
    if not targets:
        raise UsageError(
            "install where?",
            field="--dest",
            expected=f"a folder, or --agent {'|'.join(sorted(AGENT_FOLDERS))}",
        )
    root = Path(find_bundle_root())
    installed = [
        str(path) for target in targets for path in install_bundle(root, target, force=force)
    ]
    missing = (
        ""
        if shutil.which("mae")
        else "\n`mae` is not on PATH: the installed skill needs it (pip install 'mae-skill[train]')"
    )
    emit(
        {"installed": installed, "mae_on_path": not missing},
        as_json=as_json,
        text="\n".join(installed) + missing,
    )


def install_bundle(root: Path, target: Path, *, force: bool = False) -> list[Path]:
    """Copy the bundle at ``root`` to ``target/<name>`` and the AutoML companion beside it; whole or
    not at all.

    Raises:
        UsageError: a copy is already there and ``force`` is false, or the folder cannot be made.
    """
    from mae_skill.errors import UsageError

    from mae_sdk.cli.bundle_check import front_matter

    name = front_matter(root / "SKILL.md")["name"]
    companion = root / "references" / "tao-run-automl.md"
    plan: list[tuple[str, Any]] = [(name, None), ("tao-run-automl", companion)]
    for folder, _ in plan:
        if (target / folder).exists() and not force:
            raise UsageError(
                "already installed",
                field="--dest",
                got=str(target / folder),
                hint="--force replaces it",
            )
    done = []
    for folder, page in plan:
        final = target / folder
        try:
            with files.atomic_folder(final, replace=True) as staging:
                if page is None:
                    shutil.copy2(root / "SKILL.md", staging / "SKILL.md")
                    for part in ("schemas", "references"):
                        shutil.copytree(root / part, staging / part)
                else:
                    shutil.copy2(page, staging / "SKILL.md")
        except OSError as error:
            raise UsageError(
                "the folder cannot be made", field="--dest", got=str(target), hint=str(error)
            ) from None
        done.append(final)
    return done


@click.command()
@click.option("--skill-dir", metavar="DIR", help="Another bundle. Default: the packaged one.")
@json_option
def mcp(skill_dir: str | None, as_json: bool) -> None:
    """Serve plan, run, status, logs, cancel, metrics, explain, inspect as MCP tools over stdio."""
    from importlib.util import find_spec

    from mae_skill.errors import DependencyError

    if find_spec("mcp") is None:
        raise DependencyError(
            "the MCP SDK is not installed", field="mcp", hint="pip install 'mae-skill[mcp]'"
        )
    from mae_sdk.mcp_server import serve

    serve(skill_dir)


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@json_option
def completion(shell: str, as_json: bool) -> None:
    """Print the completion script of a shell; bash: eval "$(mae completion bash)"."""
    from click.shell_completion import get_completion_class

    from mae_sdk.cli.main import cli

    kind = get_completion_class(shell)
    assert kind is not None
    script = kind(cli, {}, "mae", "_MAE_COMPLETE").source()
    emit({"shell": shell, "script": script}, as_json=as_json, text=script)
