"""``mae skill …``, ``mae mcp``, ``mae completion``: the bundle as agents and shells meet it."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import click
from mae_skill.bundle_file import bundle_text
from mae_skill.errors import (
    DependencyError,
    MaeError,
    NotFoundError,
    SpecError,
    UsageError,
)
from mae_skill.spelling import and_more

from mae_sdk import files
from mae_sdk.cli.common import emit, json_option, skill_dir_option

AGENT_FOLDERS = {
    "claude": "~/.claude/skills",
    "codex": "~/.codex/skills",
    "agents": "~/.agents/skills",
    "cursor": "~/.cursor/skills",
    "gemini": "~/.gemini/skills",
}
"""Where the usual agents look for skills."""

FRONT_MATTER_KEYS = {
    "name",
    "description",
    "license",
    "compatibility",
    "metadata",
    "allowed-tools",
}

_LINK = re.compile(r"\[[^\]]*\]\((?!https?://|#|mailto:)([^)#\s]+)(?:#[^)]*)?\)")
_MENTION = re.compile(r"(?<![\w/.:-])((?:references|schemas)/(?:[a-z0-9_./-]*[a-z0-9_]))(?!\w)")
"""A file of the bundle that a text names without a link; a word in capitals is a placeholder."""


@click.group()
def skill() -> None:
    """The bundle: validate, generate, install."""


@skill.command()
@click.argument("directory", metavar="[DIR]", required=False)
@json_option
def validate(directory: str | None, as_json: bool) -> None:
    """Check a bundle: front matter, schemas, templates, skill_info, links. Exit 0 or 2.

    With DIR it is scored: which of its actions work here, what each needs, and why not. A bundle of
    upstream's dialect, or without SKILL.md, is scored alone.
    """
    from mae_skill.bundle import Bundle

    from mae_sdk.plan.score import score

    if directory is not None:
        bundle = Bundle.load(directory)
        problems: list[MaeError] = []
        if not bundle.is_foreign and (bundle.root / "SKILL.md").is_file():
            _, problems = check_bundle(str(bundle.root))
        if problems:
            raise SpecError("invalid bundle", problems=problems)
        document = {"bundle": directory, **score(bundle)}
        document["valid"] = document["works"] == document["of"]
        emit(document, as_json=as_json, text=_score_text(document))
        if not document["valid"]:
            raise click.exceptions.Exit(SpecError.exit_code)
        return
    root, problems = check_bundle()
    if problems:
        raise SpecError("invalid bundle", problems=problems)
    emit(
        {"valid": True, "bundle": str(root)},
        as_json=as_json,
        text=f"valid: {root}",
        next_commands=["mae skill install --dest DIR"],
    )


MAX_SHOWN = 12
"""Lines of one kind that the score of a bundle shows as text."""


LISTED = "`mae skill validate DIR` lists them"
"""In a notice of a plan whose keys the score names itself."""


def _score_text(document: dict[str, Any]) -> str:
    """The score of a bundle as a page."""
    lines = [f"{document['works']} of {document['of']} actions work: {document['bundle']}"]
    told: set[str] = set()  # what is said of the whole bundle is said once
    for name, about in document["actions"].items():
        lines.append(f"{name}: {'works' if about['works'] else 'does not work'}")
        for error in about["problems"][:MAX_SHOWN]:
            lines.append(f"  - {error['field']}: {error['message']}")
        if about["needs"]:
            lines.append(f"  needs {', '.join(about['needs'][:MAX_SHOWN])}")
        lines.append(f"  AutoML: {about['automl']}")
        new = [one for one in about["notices"] if one not in told and LISTED not in one]
        told |= set(new)
        lines += [f"  note: {notice}" for notice in new[:MAX_SHOWN]]
    for name, keys in document["unread"].items():
        lines.append(f"not read in {name}: {and_more(keys, MAX_SHOWN)}")
    return "\n".join(lines)


@skill.command()
@click.option("--check", is_flag=True, help="Write nothing; exit 2 when a generated file is stale.")
@json_option
def generate(check: bool, as_json: bool) -> None:
    """Write schemas, manifest, templates and tables from the models, in a checkout."""
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

    if dest is not None and not dest.strip():
        raise UsageError(
            "must not be empty", field="--dest", got=dest, expected="a folder", hint="--dest DIR"
        )
    targets = [Path(dest).expanduser()] if dest else []
    targets += [Path(AGENT_FOLDERS[name]).expanduser() for name in agents]

    if not targets:
        raise UsageError(
            "--dest or --agent is required",
            field="--dest",
            expected=f"a folder, or --agent {'|'.join(sorted(AGENT_FOLDERS))}",
        )
    root = Path(find_bundle_root())
    installed = [
        str(path) for target in targets for path in install_bundle(root, target, force=force)
    ]
    lines = [*installed]
    on_path = shutil.which("mae") is not None
    if not on_path:
        lines.append(
            "`mae` is not on PATH: the installed skill needs it (pip install 'mae-skill[train]')"
        )
    emit({"installed": installed, "mae_on_path": on_path}, as_json=as_json, text="\n".join(lines))


@click.command()
@skill_dir_option
@json_option
def mcp(skill_dir: str | None, as_json: bool) -> None:
    """Serve plan, run, status, logs, cancel, metrics, explain, inspect as MCP tools over stdio."""
    from importlib.util import find_spec

    if find_spec("mcp") is None:
        raise DependencyError(
            "the MCP SDK is not installed", field="mcp", hint="pip install 'mae-skill[mcp]'"
        )
    from mae_sdk.mcp_server.protocol import serve

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


def install_bundle(root: Path, target: Path, *, force: bool = False) -> list[Path]:
    """Copy the bundle to ``target/<name>`` and the AutoML companion beside it.

    A folder appears whole or not at all.

    Raises:
        UsageError: a copy is already there and ``force`` is false, what is there is no skill, or
            the folder cannot be made.
    """
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
        _refuse_foreign(target / folder)
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


def _refuse_foreign(folder: Path) -> None:
    """Refuse to replace what is no skill of this name, whatever ``force`` says.

    Raises:
        UsageError: it is something else.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    try:
        ours = front_matter(folder / "SKILL.md").get("name") == folder.name
    except (OSError, ValueError, MaeError):
        ours = False
    if not ours:
        raise UsageError(
            "there is something else under this name, which is no installed copy",
            field="--dest",
            got=str(folder),
            expected="a folder without it, or with an installed copy",
            hint="name another --dest, or move it away",
        )


def front_matter(path: Path) -> dict[str, Any]:
    """The YAML front matter of a SKILL.md.

    Raises:
        NotFoundError: the file is missing.
        SpecError: there is no front matter, or it does not parse.
    """
    from mae_skill.reader import parse_yaml

    if not path.is_file():
        raise NotFoundError("no SKILL.md", got=str(path))
    match = re.match(r"---\n(.*?)\n---\n", bundle_text(path.parent, path), re.DOTALL)
    if match is None:
        raise SpecError("SKILL.md has no front matter", got=str(path))
    parsed = parse_yaml(match.group(1))
    if not isinstance(parsed, dict):
        raise SpecError("the front matter is not a mapping", got=str(path))
    return parsed


def check_bundle(directory: str | None = None) -> tuple[Path, list[MaeError]]:
    """The bundle's root, and everything that is wrong with it."""
    from mae_skill.bundle import Bundle, find_bundle_root

    root = Path(directory) if directory else Path(find_bundle_root())
    if not (root / "SKILL.md").is_file():
        raise NotFoundError(
            "no skill bundle here",
            got=str(root),
            expected="a folder with SKILL.md, schemas/ and references/",
        )
    problems = [*_check_front_matter(root), *_check_links(root)]
    bundle = Bundle.load(root)
    for action, entry in bundle.manifest.get("actions", {}).items():
        if "path" in entry:
            problems += _check_action(root, action, entry)
    return root, problems


def _check_front_matter(root: Path) -> list[MaeError]:
    found = front_matter(root / "SKILL.md")
    problems: list[MaeError] = []
    stray = sorted(set(found) - FRONT_MATTER_KEYS)
    if stray:
        problems.append(
            SpecError(
                "unknown key in the front matter",
                field=stray[0],
                got=stray,
                expected=", ".join(sorted(FRONT_MATTER_KEYS)),
            )
        )

    name, description = str(found.get("name", "")), str(found.get("description", ""))
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name) or len(name) > 64:
        problems.append(
            SpecError(
                "not a skill name",
                field="name",
                got=name,
                expected="lower case and hyphens, at most 64 characters",
            )
        )
    if not 0 < len(description) <= 1024 or "<" in description or ">" in description:
        problems.append(
            SpecError(
                "not a description",
                field="description",
                got=len(description),
                expected="1 to 1024 characters, no angle brackets",
            )
        )
    return problems


def _check_links(root: Path) -> list[MaeError]:
    """Files that a page, a schema or skill_info names, by a link or as ``references/…``."""
    pages = [root / "SKILL.md", *sorted((root / "references").glob("*.*"))]
    problems: list[MaeError] = []
    for page in [*pages, *sorted((root / "schemas").glob("*.json"))]:
        text = bundle_text(root, page)
        where = str(page.relative_to(root))
        if page.suffix == ".md":
            problems += [
                SpecError("a link leads nowhere", field=where, got=target)
                for target in dict.fromkeys(_LINK.findall(text))
                if not (page.parent / target).exists()
            ]
        problems += [
            SpecError("a file that is named is missing", field=where, got=target)
            for target in dict.fromkeys(_MENTION.findall(text))
            if not (root / target).exists()
        ]
    return problems


def _check_action(root: Path, action: str, entry: dict[str, Any]) -> list[MaeError]:
    from jsonschema import Draft202012Validator
    from mae_skill.reader import read_spec

    problems: list[MaeError] = []
    schema_path = _find(root, str(entry["path"]), "schemas")
    try:
        schema = json.loads(bundle_text(root, schema_path))
        Draft202012Validator.check_schema(schema)
    except Exception as error:
        return [
            SpecError(
                "the schema is missing or not valid JSON Schema",
                field=f"schemas.{action}",
                got=str(error)[:200],
            )
        ]
    template_name = entry.get("spec_template")
    if template_name:
        template = read_spec(str(_find(root, str(template_name), "references")))
        for found in Draft202012Validator(schema).iter_errors(template):
            problems.append(
                SpecError(
                    "the template does not fit its schema",
                    field=f"{action}:{found.json_path}",
                    got=found.message[:200],
                )
            )
        if "default" in schema and template != schema["default"]:
            problems.append(
                SpecError(
                    "the template differs from the schema's default",
                    field=action,
                    hint="mae skill generate",
                )
            )
    return problems


def _find(root: Path, name: str, folder: str) -> Path:
    return root / name if (root / name).exists() else root / folder / Path(name).name
