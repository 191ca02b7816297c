"""Reading a skill bundle: ``references/skill_info.yaml``, ``schemas/``, templates. Plain files; any
bundle of this shape is read alike.
"""

from __future__ import annotations

import copy
import difflib
import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mae_skill.dialect import normalise
from mae_skill.errors import NotFoundError, SpecError, UsageError
from mae_skill.reader import read_spec

INFO = "skill_info.yaml"


def find_bundle_root() -> Path:
    """The bundled skill: the files that the wheel carries, else those of the checkout.

    Raises:
        NotFoundError: neither is there.
    """
    here = Path(__file__).resolve()
    # The checkout comes first: an editable install may hold a stale copy of the packaged files.
    for root in (here.parents[2], here.parent / "_bundle"):
        if (root / "references" / "skill_info.yaml").is_file():
            return root
    raise NotFoundError(
        "the bundled skill is not installed",
        got=str(here.parent / "_bundle"),
        hint="reinstall mae-skill",
    )


@dataclass
class Bundle:
    """A bundle's files, read as they are asked for.

    Attributes:
        root: its folder.
        info: ``skill_info.yaml``.
        notes: what could not be used of it, for the user.
    """

    root: Path
    info: dict[str, Any]
    notes: list[str] = field(default_factory=list)
    _schemas: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def load(cls, path: str | Path | None = None) -> Bundle:
        """The bundle in folder ``path``, or the bundled skill; ``path`` may also be one
        ``….skill_info.yaml`` of a folder that holds several.

        Raises:
            NotFoundError: there is no ``skill_info.yaml``.
            SpecError: it is no mapping or names no actions.
        """
        root = Path(path) if path is not None else find_bundle_root()
        if root.is_file() and root.name.endswith(INFO):
            return cls._of(
                root, root.parents[1] if root.parent.name == "references" else root.parent
            )
        file = next(
            (item for item in (root / "references" / INFO, root / INFO) if item.is_file()), None
        )
        if file is None:
            raise NotFoundError(
                "no skill bundle here",
                field="skill_dir",
                got=str(root),
                expected="a folder with references/skill_info.yaml",
            )
        return cls._of(file, root)

    @classmethod
    def _of(cls, file: Path, root: Path) -> Bundle:
        changed = file.stat()
        info = copy.deepcopy(_read(file, changed.st_mtime_ns, changed.st_size))
        if not isinstance(info.get("actions"), dict) or not info["actions"]:
            raise SpecError(
                "the bundle names no actions",
                field="actions",
                got=info.get("actions"),
                expected="a mapping of action names",
            )
        return cls(root, info)

    @property
    def actions(self) -> list[str]:
        """The names of its actions."""
        return list(self.info["actions"])

    def action(self, name: str) -> dict[str, Any]:
        """The entry of an action.

        Raises:
            UsageError: the bundle has no such action.
        """
        entry = self.info["actions"].get(name)
        if entry is None:
            near = difflib.get_close_matches(name, self.actions, n=1)
            raise UsageError(
                "the bundle has no such action",
                field="action",
                got=name,
                expected=f"one of {', '.join(self.actions)}",
                hint=f"did you mean {near[0]}?" if near else None,
            )
        return dict(entry or {})

    @property
    def manifest(self) -> dict[str, Any]:
        """``schemas/manifest.json``; empty when there is none."""
        try:
            found = json.loads(
                (self.root / "schemas" / "manifest.json").read_text(encoding="utf-8")
            )
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    @property
    def spec_params(self) -> dict[str, dict[str, str]]:
        """Action → spec field → inference function: of ``skill_info.yaml``, else the table of
        ``SKILL.md``.
        """
        found = self.info.get("spec_params")
        if isinstance(found, dict):
            return {str(action): dict(rows or {}) for action, rows in found.items()}
        page = self.root / "SKILL.md"
        return _table(page.read_text(encoding="utf-8")) if page.is_file() else {}

    def schema_path(self, action: str) -> Path:
        """Where the action's schema is, whether or not it is there."""
        entry = (self.manifest.get("actions") or {}).get(action) or {}
        named = self.root / "schemas" / str(entry.get("path") or f"{action}.schema.json")
        return (
            named
            if named.is_file()
            else self.root / str(entry.get("path") or f"schemas/{action}.schema.json")
        )

    def schema(self, action: str) -> dict[str, Any]:
        """The action's schema as JSON Schema; upstream's type words and infinite bounds are
        translated.

        Raises:
            NotFoundError: the file is missing.
            SpecError: it is not JSON, or no schema.
            UsageError: an unknown action, or the schema refers to what is outside of it.
        """
        self.action(action)
        if action not in self._schemas:
            path = self.schema_path(action)
            if not path.is_file():
                raise NotFoundError(
                    "the action has no schema",
                    field=f"schemas.{action}",
                    got=path.name,
                    hint="mae skill generate",
                )
            try:
                found = json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError, RecursionError) as error:
                raise SpecError(
                    "the schema is not JSON",
                    field=f"schemas.{action}",
                    got=str(error)[:200],
                    hint="mae skill generate",
                ) from error
            if not isinstance(found, Mapping) or not isinstance(found.get("properties"), Mapping):
                raise SpecError(
                    "the schema describes no fields",
                    field=f"schemas.{action}",
                    got=path.name,
                    expected="a JSON Schema with properties",
                )
            _refuse_foreign_references(found, action)
            self._schemas[action], notes = normalise(found)
            self.notes += [note for note in notes if note not in self.notes]
        return self._schemas[action]

    def template_path(self, action: str) -> Path:
        """Where the action's spec template is, whether or not it is there."""
        entry = (self.manifest.get("actions") or {}).get(action) or {}
        name = (
            (self.info.get("spec_templates") or {}).get(action)
            or entry.get("spec_template")
            or f"spec_template_{action}.yaml"
        )
        named = self.root / "references" / str(name)
        return named if named.is_file() else self.root / str(name)

    def template(self, action: str) -> dict[str, Any]:
        """The action's spec template.

        Raises:
            NotFoundError: the file is missing.
            SpecError: it does not parse.
            UsageError: an unknown action.
        """
        self.action(action)
        path = self.template_path(action)
        if not path.is_file():
            raise NotFoundError(
                "the action has no spec template",
                field=f"spec_templates.{action}",
                got=path.name,
                hint="mae skill generate",
            )
        changed = path.stat()
        return copy.deepcopy(_read(path, changed.st_mtime_ns, changed.st_size))


def _refuse_foreign_references(schema: Any, action: str) -> None:
    """A reference leads to a place in the schema itself: nothing is fetched, no file is opened.

    Raises:
        UsageError: one does not.
    """
    waiting = [schema]
    while waiting:
        node = waiting.pop()
        if isinstance(node, list):
            waiting += node
        if not isinstance(node, Mapping):
            continue
        waiting += node.values()
        for word in ("$ref", "$dynamicRef", "$recursiveRef"):
            target = node.get(word)
            if target is None or isinstance(target, Mapping):  # a field of that name
                continue
            if not isinstance(target, str) or not target.startswith("#"):
                raise UsageError(
                    f"the schema of {action} refers to something outside of it",
                    field=f"schemas.{action}",
                    got=f"{word}: {target}",
                    expected="#/…: a place in the same schema",
                    hint="write the definition into the schema; nothing is ever fetched",
                )


@functools.lru_cache(maxsize=32)
def _read(path: Path, mtime_ns: int, size: int) -> dict[str, Any]:
    """A template; PyYAML needs a tenth of a second for one, so each is parsed once per change."""
    return read_spec(path)


def _table(text: str) -> dict[str, dict[str, str]]:
    """The rows ``| action | spec field | function | … |`` under the heading that names the
    mappings.
    """
    _, found, rest = text.partition("Spec Param / Parent Model Inference")
    rows: dict[str, dict[str, str]] = {}
    body = False  # the rows after the line of dashes
    for line in rest.splitlines() if found else []:
        if line.startswith("#"):
            break
        cells = [cell.strip().strip("`") for cell in line.strip().strip("|").split("|")]
        body = body or (set(line.strip()) <= set("|-: ") and "-" in line)
        if (
            body
            and line.lstrip().startswith("|")
            and len(cells) >= 3
            and cells[2].isidentifier()
            and cells[0].isidentifier()
        ):
            rows.setdefault(cells[0], {})[cells[1]] = cells[2]
    return rows
