"""Whether a skill bundle is whole: the checks behind ``mae skill validate``."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from mae_skill.errors import MaeError, NotFoundError, SpecError

ALLOWED_KEYS = {"name", "description", "license", "compatibility", "metadata", "allowed-tools"}
LINK = re.compile(r"\[[^\]]*\]\((?!https?://|#|mailto:)([^)#\s]+)(?:#[^)]*)?\)")


def front_matter(path: Path) -> dict[str, Any]:
    """The YAML front matter of a SKILL.md.

    Raises:
        NotFoundError: the file is not there.
        SpecError: there is no front matter, or it does not parse.
    """
    from mae_skill.reader import parse_yaml

    if not path.is_file():
        raise NotFoundError("no SKILL.md", got=str(path))
    match = re.match(r"---\n(.*?)\n---\n", path.read_text(encoding="utf-8"), re.DOTALL)
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
    for action, entry in bundle.manifest.get("actions", bundle.manifest).items():
        if isinstance(entry, dict) and "path" in entry:
            problems += _check_action(root, action, entry)
    return root, problems


def _check_front_matter(root: Path) -> list[MaeError]:
    found = front_matter(root / "SKILL.md")
    problems: list[MaeError] = []
    stray = sorted(set(found) - ALLOWED_KEYS)
    if stray:
        problems.append(
            SpecError(
                "unknown key in the front matter",
                field=stray[0],
                got=stray,
                expected=", ".join(sorted(ALLOWED_KEYS)),
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
    problems: list[MaeError] = []
    for page in [root / "SKILL.md", *sorted((root / "references").glob("*.md"))]:
        for target in LINK.findall(page.read_text(encoding="utf-8")):
            if not (page.parent / target).exists():
                problems.append(
                    SpecError("a link leads nowhere", field=str(page.relative_to(root)), got=target)
                )
    return problems


def _check_action(root: Path, action: str, entry: dict[str, Any]) -> list[MaeError]:
    from jsonschema import Draft202012Validator
    from mae_skill.reader import read_spec

    problems: list[MaeError] = []
    schema_path = _find(root, str(entry["path"]), "schemas")
    try:
        schema = json.loads(schema_path.read_text(encoding="utf-8"))
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
