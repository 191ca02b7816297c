"""Reading a skill bundle: ``references/skill_info.yaml``, ``schemas/``, templates. Plain files; any
bundle of this shape is read alike.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import json
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mae_skill.bundle_file import bundle_text, require_inside
from mae_skill.dialect import (
    MEANT,
    is_foreign,
    is_nested,
    misspelled,
    normalize,
    unknown,
    unread_info,
    unread_schema,
)
from mae_skill.dotted import KEY, MISSING, field_nodes, flatten, get_dotted, set_dotted, split_index
from mae_skill.errors import MaeError, NotFoundError, SpecError, UsageError
from mae_skill.placeholders import NOT_GIVEN
from mae_skill.reader import Otherwise, parse_value, read_otherwise, read_spec
from mae_skill.spelling import and_more, nearest

INFO = "skill_info.yaml"

_CONVENTIONS = (
    (("checkpoint", "trt_engine", "onnx_file", "model_path"), "parent_model"),
    (("resume_training_checkpoint_path", "resume_checkpoint"), "resume_model"),
    (("pretrained_model_path", "pretrained_checkpoint"), "ptm_if_no_resume_model"),
)
"""What inputs of these names take, in a bundle that maps none: its action's own section's alone."""

_FUNCTION = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
"""What the inference functions are called like; any other word is a constant."""

_ACTION = re.compile(r"[A-Za-z0-9][\w.-]*", re.ASCII)

MAX_NAMED = 8
"""Keys that one notice names."""


MAX_NORMAL = 32
"""Schemas in JSON Schema's words that a process keeps; a bundle has some five."""


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
        notes: action → what could not be used of its schema, for the user.
        partial: whether it is one of several infos of its folder, whose schemas are the main one's.
        empty: the rows of its tables that had no value; `info` is without them.
        broken: action → what is wrong with its entry or its tables; `info` is without them.
        file: where `info` was read.
    """

    root: Path
    info: dict[str, Any]
    notes: dict[str, list[str]] = field(default_factory=dict)
    partial: bool = False
    empty: list[str] = field(default_factory=list)
    broken: dict[str, SpecError] = field(default_factory=dict)
    file: Path | None = None
    _schemas: dict[str, dict[str, Any]] = field(default_factory=dict)
    _templates: dict[str, tuple[object, dict[str, Any]]] = field(default_factory=dict)

    @classmethod
    def load(cls, path: str | Path | None = None) -> Bundle:
        """The bundle in folder ``path``, or the bundled skill; ``path`` may also be one
        ``….skill_info.yaml`` of a folder that holds several.

        Raises:
            NotFoundError: there is no ``skill_info.yaml``.
            SpecError: it is no mapping or names no actions.
        """
        root = Path(path) if path is not None else find_bundle_root()
        if root == find_bundle_root():
            return _bundled(root, _stamp(root))
        return cls._at(root)

    @classmethod
    def _at(cls, root: Path) -> Bundle:
        if root.is_file() and root.name.endswith(INFO):
            above = root.parents[1] if root.parent.name == "references" else root.parent
            return cls._of(root, above, partial=root.name != INFO)
        file = next(
            (item for item in (root / "references" / INFO, root / INFO) if _is_file(item)), None
        )
        if file is None:
            raise NotFoundError(
                f"no skill bundle here: {_what_is_there(root)}",
                field="skill_dir",
                got=str(root),
                expected=f"a folder with references/{INFO}, or {INFO}",
                hint=_bundles_near(root),
            )
        return cls._of(file, root)

    @classmethod
    def _of(cls, file: Path, root: Path, partial: bool = False) -> Bundle:
        require_inside(root, file)
        changed = file.stat()
        info = copy.deepcopy(_read(file, changed.st_mtime_ns, changed.st_size))
        if not isinstance(info.get("actions"), dict) or not info["actions"]:
            raise SpecError(
                "the bundle names no actions",
                field="actions",
                got=info.get("actions"),
                expected="a mapping of action names",
            )
        broken = _check_tables(info)
        misnamed = [name for name in info["actions"] if not _ACTION.fullmatch(name)]
        for name in misnamed:
            broken[name] = SpecError(
                "not the name of an action: jobs and folders are named by it",
                field="actions",
                got=name,
                expected="letters, digits, '.', '-', '_'; the first a letter or a digit",
            )
            info["actions"][name] = {}
        if len(misnamed) == len(info["actions"]):
            raise broken[misnamed[0]]
        for entry in info["actions"].values():
            for name in ("inputs", "outputs"):
                if isinstance(entry, dict) and name in entry:
                    entry[name] = _as_table(entry[name])
        empty = _drop_empty_rows(info)
        return cls(root, info, partial=partial, empty=empty, broken=broken, file=file)

    def data_rows(self, action: str) -> dict[str, dict[str, Any]]:
        """Spec field → row of ``data_sources``, of an action."""
        return dict((self.info.get("data_sources") or {}).get(action) or {})

    @property
    def name(self) -> str:
        """Its name, else that of its architecture, else that of its folder."""
        return str(self.info.get("name") or self.info.get("network_arch") or self.root.name)

    @property
    def actions(self) -> list[str]:
        """The names of its actions."""
        return list(self.info["actions"])

    def notices(self, action: str) -> list[str]:
        """What of the bundle's files is not used for an action, each kind once."""
        template: Mapping[str, Any] = {}
        strange = self._unread_of(action)
        with contextlib.suppress(MaeError):
            template = self._template(action)
        with contextlib.suppress(MaeError):
            strange += [f"schema: {word}" for word in unread_schema(self.schema(action))]
        without = [key for key in self.key_defaults if not _has_place(template, key)]

        absent = f"neither the template nor the schema of {action} has"
        kinds = {
            "keys of the bundle that are not read: NAMES; `mae skill validate DIR` lists them": (
                strange
            ),
            f"key_defaults that are not used, since the template of {action} has no place for "
            "them: NAMES": list(map(repr, without)),
            f"defaults of fields that {absent}: NAMES; they are in the spec; are they meant?": (
                self._new_fields(action, without)
            ),
            f"inputs of {action} that are sections and no files: NAMES; only what is ??? in them "
            "must be given": self._sections_for_files(action, template),
            f"shorthands that hide a field of {action} of the same name: NAMES; what is given by "
            "the word reaches the other field alone: rename the shorthand": self._hidden(action),
            f"fields that data_sources and spec_params of {action} both fill: NAMES; a source goes "
            "before a function, whose model is then not used: keep one of the two rows": (
                self._filled_twice(action)
            ),
            f"automl_default_parameters of the schema of {action} that are no field of it: NAMES; "
            "no search varies them": self._searched_nowhere(action),
            "defaults that go before the value of the template: NAMES": self._beaten(action),
            f"fields of the bundle's tables that {absent}: NAMES; are they meant?": (
                self._named_and_not_there(action)
            ),
        }
        found = [*self.notes.get(action, ()), *self._manifest[1], *self._read_otherwise(action)]
        return found + [
            said.replace("NAMES", and_more(names, MAX_NAMED))
            for said, names in kinds.items()
            if names
        ]

    def _sections_for_files(self, action: str, template: Mapping[str, Any]) -> list[str]:
        """The ``inputs`` of an action that are sections of its template."""
        inputs = self._entry(action).get("inputs")
        named = map(str, inputs if isinstance(inputs, Mapping) else ())
        return [
            key for key in named if get_dotted(template, key) and _is_section(key, template, ())
        ]

    def _read_otherwise(self, action: str) -> list[str]:
        """Notices of the words of a template, and of the tables of skill_info.yaml that reach a
        spec, that its runner may read otherwise."""
        found: list[str] = []
        with contextlib.suppress(MaeError, OSError):
            words = read_otherwise(bundle_text(self.root, self.template_path(action)))
            found += _said_otherwise(words, f"the template of {action}")
        with contextlib.suppress(MaeError, OSError):
            words = read_otherwise("" if self.file is None else bundle_text(self.root, self.file))
            own = (*_BY_ACTION, "key_defaults")
            words = [
                one
                for one in words
                if one.path[0] in own and (one.path[0] not in _BY_ACTION or one.path[1] == action)
            ]
            found += _said_otherwise(words, INFO)
        return found

    def _named_and_not_there(self, action: str) -> list[str]:
        """The unknown fields of an action, each with its table and what is meant; the misspelled
        come first."""
        found = self.unknown_fields(action)
        known = sorted(found.items(), key=lambda item: item[1][1] is None)
        return [
            f"{table}.{key}" + (f" ({MEANT} {near}?)" if near else "")
            for key, (table, near) in known
        ]

    def _unread_of(self, action: str) -> list[str]:
        """The keys that act nowhere, without those of other actions."""
        others = [f".{name}." for name in self.actions if name != action]
        return [key for key in self.unread if not any(other in key for other in others)]

    def misspelled(self, action: str) -> list[str]:
        """The keys of an action that act nowhere and are near ones that act, a few, each with
        it."""
        found = [*self._unread_of(action), *self._named_and_not_there(action)]
        return [key for key in found if MEANT in key][:3]

    def _new_fields(self, action: str, unused: Collection[str]) -> list[str]:
        """The keys of defaults that add a field to a section whose fields are listed.

        The ``defaults`` of ``mode: args`` are the options themselves: the misspelled are named.
        """
        path = self.template_path(action)
        entry = self.action(action)
        given = [f"key_defaults.{key}" for key in self.key_defaults if key not in unused]
        own = _action_defaults(entry)
        given += [f"actions.{action}.defaults.{key}" for key in own]
        if not given or not _is_file(path):
            return []
        changed = path.stat()
        listed = _read(path, changed.st_mtime_ns, changed.st_size)
        known: Collection[str] = ()
        with contextlib.suppress(MaeError):
            known = field_nodes(self.schema(action))
        new = [one for one in given if _is_new(one.split("defaults.", 1)[1], listed, known)]
        new += self._by_action(listed, unused)
        if entry.get("mode") != "args":
            return new
        fields = [*flatten(listed), *known]
        near = {one: misspelled(one.split("defaults.", 1)[1], fields, own) for one in new}
        return [
            f"{one} ({MEANT} {near[one]}?)" if near[one] else one
            for one in new
            if near[one] or one.startswith("key_defaults.")
        ]

    def _hidden(self, action: str) -> list[str]:
        """The shorthands that are the name of another field of an action, each with its key."""
        nodes, template = self._listed(action)
        return [
            f"{word} (it stands for {key})"
            for word, key in self.shorthand.items()
            if word != key
            and (word in nodes or get_dotted(template, word, MISSING) is not MISSING)
            and not _is_section(word, template, nodes)
        ]

    def _filled_twice(self, action: str) -> list[str]:
        """The fields that a source of data and an inference function fill, each with the
        function."""
        rows, functions = self.data_rows(action), self.spec_params.get(action) or {}
        return [
            f"{key} ({functions[key]})"
            for key, row in rows.items()
            if key in functions and isinstance(row, Mapping) and row.get("source")
        ]

    def _searched_nowhere(self, action: str) -> list[str]:
        """What the schema of an action says is searched, and is no field of it."""
        schema: Mapping[str, Any] = {}
        with contextlib.suppress(MaeError):
            schema = self.schema(action)
        nodes = field_nodes(schema)
        named = schema.get("automl_default_parameters") or ()
        return [one for one in map(str, named) if one.partition("[")[0] not in nodes]

    def _listed(self, action: str) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        """The fields of the schema of an action, and its template; empty where it has none."""
        nodes: Mapping[str, Any] = {}
        template: Mapping[str, Any] = {}
        with contextlib.suppress(MaeError):
            nodes = field_nodes(self.schema(action))
        with contextlib.suppress(MaeError):
            template = self._template(action)
        return nodes, template

    def _beaten(self, action: str) -> list[str]:
        """The ``defaults`` of an entry that take the place of another value of its template."""
        path = self.template_path(action)
        defaults = _action_defaults({"defaults": self.action(action).get("defaults")})
        if not defaults or not _is_file(path):
            return []
        changed = path.stat()
        listed: Mapping[str, Any] = {}
        with contextlib.suppress(MaeError):
            listed = _read(path, changed.st_mtime_ns, changed.st_size)
        own = {key: get_dotted(listed, key) for key in defaults}
        return [
            f"{key}: {value} ({own[key]} there)"
            for key, value in defaults.items()
            if own[key] not in (None, "", NOT_GIVEN, value) and not isinstance(own[key], Mapping)
        ]

    def _by_action(self, listed: Mapping[str, Any], unused: Collection[str]) -> Iterator[str]:
        """The ``key_defaults`` below an action's name that are meant for a field of a template:
        the table is one for all actions."""
        for key in self.key_defaults:
            action, _, rest = key.partition(".")
            is_field = rest and get_dotted(listed, rest, MISSING) is not MISSING
            adds = get_dotted(listed, key, MISSING) is MISSING and key not in unused
            if action in self.actions and is_field and adds:
                yield f"key_defaults.{key} ({MEANT} {rest}?)"

    @functools.cached_property
    def unread(self) -> list[str]:
        """The keys of its ``skill_info.yaml`` that act nowhere, each with the reason where it has
        one."""
        return sorted(
            [*unread_info(self.info), *self.empty, *self._lead_nowhere(), *self._are_sections()]
        )

    def _lead_nowhere(self) -> Iterator[str]:
        """The shorthands, and the key of the number of GPUs, that name a field of no action."""
        words = {f"spec_shorthand_keys.{word}": key for word, key in self.shorthand.items()}
        if isinstance(gpus := self.info.get("gpu_spec_key"), str):
            words["gpu_spec_key"] = gpus
        if isinstance(named := self.info.get("auto_recipe_parameters"), list):
            words |= {
                f"auto_recipe_parameters[{at}]": one.partition("[")[0]
                for at, one in enumerate(named)
                if isinstance(one, str)
            }
        for table in ("automl_keys", "cost_keys", "inherit"):
            for word, key in _leaves(self.info.get(table) or {}):
                listed = key if isinstance(key, list) else [key]
                for at, one in enumerate(listed):
                    place = f"[{at}]" if isinstance(key, list) else ""
                    if isinstance(one, str):
                        words[f"{table}.{word}{place}"] = one
        for action in self.actions:
            if not words:
                return
            has_field = self._fields(action)
            words = {word: key for word, key in words.items() if not has_field(key)}
        yield from (f"{word}: {key} (no action has this field)" for word, key in words.items())

    def _are_sections(self) -> Iterator[str]:
        """The shorthands that stand for a section: a value for one would take its fields away."""
        templates: list[Mapping[str, Any]] = []
        for action in self.actions:
            with contextlib.suppress(MaeError):
                templates.append(self._template(action))
        for word, key in self.shorthand.items():
            for template in templates:
                if get_dotted(template, key) and _is_section(key, template, ()):
                    yield f"spec_shorthand_keys.{word}: {key} (a section and no field)"
                    break

    def _tables(self, action: str) -> dict[str, Collection[str]]:
        """The fields that the tables of an action name, by the key of the table."""
        entry = self._entry(action)
        tables: dict[str, Any] = {
            f"spec_params.{action}": self.spec_params.get(action) or {},
            f"data_sources.{action}": self.data_rows(action),
        }
        for name in ("inputs", "outputs"):
            own = entry.get(name)
            tables[f"actions.{action}.{name}"] = own if isinstance(own, (Mapping, list)) else ()
        return {name: dict.fromkeys(map(str, table)) for name, table in tables.items()}

    def _fields(self, action: str) -> Callable[[str], bool]:
        """Whether an action may have a field: any, where the bundle's files name none."""
        named = {one for table in self._tables(action).values() for one in table}
        has_place, _ = self._places(action)
        return lambda key: key in named or has_place(key)

    def _places(self, action: str) -> tuple[Callable[[str], bool], list[str]]:
        """Whether the template or the schema of an action may have a field, and those that they
        list: any, where neither lists one."""
        nodes: Mapping[str, Mapping[str, Any]] = {}
        documents: list[Mapping[str, Any]] = []
        with contextlib.suppress(MaeError):
            documents.append(self._template(action))
        with contextlib.suppress(MaeError):
            schema = self.schema(action)
            nodes = field_nodes(schema)
            documents.append(schema.get("default") or {})

        def has_place(key: str) -> bool:
            if not (nodes or any(documents)) or key in nodes:
                return True
            section = key.rpartition(".")[0]
            return any(
                get_dotted(one, key, MISSING) is not MISSING or get_dotted(one, section) == {}
                for one in documents
            )

        return has_place, [*nodes, *(key for one in documents for key in flatten(one))]

    def unknown_fields(self, action: str) -> dict[str, tuple[str, str | None]]:
        """Field → the table that names it, and the field that is meant or None, of the fields that
        neither the template nor the schema of an action has. Those of a command are meant; so is
        every one where the runner reads no spec.
        """
        entry = self._entry(action)
        if entry.get("mode") == "passthrough":
            return {}
        words = re.findall(r"\{([\w.\[\]]+)\}", str(entry.get("command") or ""))
        flags = entry.get("flags") if isinstance(entry.get("flags"), list) else []
        words += [one.lstrip("-") for one in flags or () if isinstance(one, str)]
        has_place, listed = self._places(action)
        tables = {**self._tables(action), "": {self.shorthand.get(one, one) for one in words}}
        # Of an item of a list, the list is what is there.
        found = unknown(tables, listed, lambda key: has_place(key) or has_place(key.split("[")[0]))
        return {key: one for key, one in found.items() if one[0]}

    def misspelled_fields(self, action: str) -> dict[str, MaeError]:
        """Field → its error, of the fields of the tables of an action that are misspelled: what
        goes there would be lost."""
        return {
            key: SpecError(
                "the bundle names a field that neither its template nor its schema has",
                field=f"{table}.{key}",
                got=key,
                expected="a field of the action: what is given for it would be lost",
                hint=f"{MEANT} {near}? mend the bundle, or give {near}=VALUE",
            )
            for key, (table, near) in self.unknown_fields(action).items()
            if near is not None
        }

    def action(self, name: str) -> dict[str, Any]:
        """The entry of an action.

        Raises:
            UsageError: the bundle has no such action.
            SpecError: its entry or a row of its tables cannot be read.
        """
        if name not in self.info["actions"]:
            near = nearest(name, self.actions)
            raise UsageError(
                "the bundle has no such action",
                field="action",
                got=name,
                expected=f"one of {', '.join(self.actions)}",
                hint=f"did you mean {near}?" if near else None,
            )
        if name in self.broken:
            raise copy.copy(self.broken[name])
        return self._entry(name)

    def input_forms(self, action: str) -> dict[str, str]:
        """Field → ``file`` or ``folder``, of the inputs of an action that are declared as one."""
        inputs = self._entry(action).get("inputs")
        rows = inputs.items() if isinstance(inputs, Mapping) else ()
        types = {str(key): row.get("type") for key, row in rows if isinstance(row, Mapping)}
        return {key: str(kind) for key, kind in types.items() if kind in ("file", "folder")}

    def _entry(self, name: str) -> dict[str, Any]:
        return dict(self.info["actions"].get(name) or {})

    @property
    def manifest(self) -> dict[str, Any]:
        """``schemas/manifest.json``; its ``actions`` are mappings. Empty when there is none."""
        return self._manifest[0]

    @functools.cached_property
    def _manifest(self) -> tuple[dict[str, Any], list[str]]:
        """The manifest, and what of the file is not used."""
        try:
            found = json.loads(bundle_text(self.root, self.root / "schemas" / "manifest.json"))
        except FileNotFoundError:
            return {}, []
        except (OSError, ValueError, RecursionError, MaeError) as error:
            why = error.message if isinstance(error, MaeError) else "it is not JSON"
            return {}, [f"schemas/manifest.json is not used: {why}"]
        entries = found.get("actions", {}) if isinstance(found, dict) else None
        if not isinstance(entries, dict):
            what = "its actions are no mapping" if isinstance(found, dict) else "it is no mapping"
            return {}, [f"schemas/manifest.json is not used: {what}"]
        used = {name: one for name, one in entries.items() if isinstance(one, dict)}
        strange = [name for name in entries if name in self.actions and name not in used]
        return {**found, "actions": used}, [
            f"schemas/manifest.json: the entry of {name} is not used: it is no mapping"
            for name in strange[:MAX_NAMED]
        ]

    def _manifest_entry(self, action: str) -> dict[str, Any]:
        return dict(self.manifest.get("actions", {}).get(action, {}))

    @property
    def spec_params(self) -> dict[str, dict[str, str]]:
        """Action → spec field → inference function: of ``skill_info.yaml``, else the table of
        ``SKILL.md``, else that of ``references/mappings.md``, else by the names of the inputs.
        """
        found = self.info.get("spec_params")
        if isinstance(found, dict):
            rows = {str(action): dict(rows or {}) for action, rows in found.items()}
            return rows if any(rows.values()) else self._conventional()
        for page in (self.root / "SKILL.md", self.root / "references" / "mappings.md"):
            table = _table(bundle_text(self.root, page)) if _is_file(page) else {}
            if table:
                return table
        return self._conventional()

    def _conventional(self) -> dict[str, dict[str, str]]:
        """The mappings of a bundle that states none: of its declared inputs, by their names."""
        found: dict[str, dict[str, str]] = {}
        for action in self.actions:
            inputs = self._entry(action).get("inputs")
            for key in inputs if isinstance(inputs, Mapping) else ():
                last = str(key).rpartition(".")[2]
                own = str(key).split(".")[0] == action
                for words, function in _CONVENTIONS if own else ():
                    if last in words:
                        found.setdefault(action, {})[str(key)] = function
        return found

    def schema_path(self, action: str) -> Path:
        """Where the action's schema is, whether or not it is there."""
        path = self._manifest_entry(action).get("path")
        named = self.root / "schemas" / str(path or f"{action}.schema.json")
        if not _is_file(named):
            named = self.root / str(path or f"schemas/{action}.schema.json")
        return self._inside(named)

    def _inside(self, path: Path) -> Path:
        """A file that the bundle names.

        Raises:
            UsageError: it is not in the bundle's folder.
        """
        if not self._is_inside(path):
            raise UsageError(
                "the bundle names a file outside its folder",
                field="skill_info",
                got=str(path),
                expected="a file in its folder",
            )
        return path

    def _is_inside(self, path: Path) -> bool:
        return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(self.root))

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
            if not _is_file(path):
                raise NotFoundError(
                    "the action has no schema",
                    field=f"schemas.{action}",
                    got=path.name,
                    hint="mae skill generate",
                )
            try:
                found = json.loads(bundle_text(self.root, path))
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
            shipped = []
            with contextlib.suppress(MaeError, OSError):
                shipped.append(self._template(action))
            constants: dict[str, Any] = {}
            for key, value in self.constants(action):
                with contextlib.suppress(UsageError):
                    set_dotted(constants, key, value)
            if self.partial and shipped:  # the main bundle's defaults are not this one's
                found = {name: item for name, item in found.items() if name != "default"}
            bare = "default" not in found and not _is_file(self.template_path(action))
            if bare and (of_fields := _defaults_of(found)):
                found = {**found, "default": of_fields}
            self._schemas[action], self.notes[action] = _normal(found, *shipped, constants)
        return self._schemas[action]

    @property
    def is_foreign(self) -> bool:
        """Whether its schemas are written in upstream's dialect, or it has none."""
        found = []
        for action in self.actions:
            try:
                found.append(json.loads(bundle_text(self.root, self.schema_path(action))))
            except (OSError, ValueError, RecursionError, MaeError):
                continue
        return not found or any(isinstance(one, dict) and is_foreign(one) for one in found)

    def constants(self, action: str) -> Iterator[tuple[str, Any]]:
        """The fields of an action that ``spec_params`` gives a constant, with it."""
        for key, row in (self.spec_params.get(action) or {}).items():
            value = row.get("value") if isinstance(row, dict) else row
            if isinstance(value, str):
                function, comma, text = value.partition(",")
                if comma and function.strip() == "assign_const_value":
                    value = parse_value(text.strip())
                elif _FUNCTION.fullmatch(value):
                    continue
            if not isinstance(row, dict) or "value" in row:
                yield key, value
            elif not {"function", "link"} & row.keys():
                yield key, row

    def template_path(self, action: str) -> Path:
        """Where the action's spec template is, whether or not it is there."""
        name = self._named_template(action)
        if name is None:
            name = (
                self._manifest_entry(action).get("spec_template") or f"spec_template_{action}.yaml"
            )
        named, below = self.root / "references" / str(name), self.root / str(name)
        is_named = _is_file(named) or (self._is_inside(named) and not self._is_inside(below))
        return self._inside(named if is_named else below)

    def _named_template(self, action: str) -> str | None:
        """The spec template that ``spec_templates`` names for an action."""
        return (self.info.get("spec_templates") or {}).get(action) or None

    def template(self, action: str) -> dict[str, Any]:
        """The action's spec template, with the ``defaults`` and ``args`` of its entry and the
        bundle's ``key_defaults``; the caller's own copy.

        One of the last counts where the template has the section, and the list item, of its key.

        Raises:
            NotFoundError: the file is missing.
            SpecError: it does not parse, or the bundle names one that is not there.
            UsageError: an unknown action.
        """
        return copy.deepcopy(self._template(action))

    def _template(self, action: str) -> dict[str, Any]:
        """`template`, made once for each change of its file; to be read only."""
        path = self.template_path(action)
        changed = path.stat() if _is_file(path) else None
        stamp = changed and (path, changed.st_mtime_ns, changed.st_size)
        if action not in self._templates or self._templates[action][0] != stamp:
            self._templates[action] = (stamp, self._made_template(action, path))
        return self._templates[action][1]

    def _made_template(self, action: str, path: Path) -> dict[str, Any]:
        defaults = _action_defaults(self.action(action))
        if (named := self._named_template(action)) and not _is_file(path):
            raise SpecError(
                "the bundle has no such spec template",
                field=f"spec_templates.{action}",
                got=named,
                expected="a file of the bundle, in references/ or by its path",
            )
        if not _is_file(path) and not defaults:
            raise NotFoundError(
                "the action has no spec template",
                field=f"spec_templates.{action}",
                got=path.name,
                hint="mae skill generate",
            )
        found: dict[str, Any] = {}
        if _is_file(path):
            changed = path.stat()
            found = copy.deepcopy(_read(path, changed.st_mtime_ns, changed.st_size))
            _require_plain_names(found, path.name)
        else:
            found = self._defaults_of_fields(action)
        known: Collection[str] = ()
        args = words_of_args(self.action(action).get("args"))
        same = {key for key, value in args.items() if value in (key, f"{{{key}}}")}
        with contextlib.suppress(MaeError, OSError, ValueError, RecursionError, AttributeError):
            if args:
                known = field_nodes(json.loads(bundle_text(self.root, self.schema_path(action))))
        of_tables = functools.cache(lambda: tuple(self._named_in_tables(action)))
        own = {one.lstrip("-") for one in default_names(self.action(action).get("defaults"))}
        for key, value in defaults.items():
            # The option that is named after its field has that field's value.
            if key in same - own and (
                key in known or get_dotted(found, key, MISSING) is not MISSING
            ):
                continue
            # One that is named after a section has its value in its command alone.
            if key in args and _is_section(key, found, known):
                continue
            listed = (lambda: ()) if key in args else of_tables
            _put_default(found, key, value, f"actions.{action}.defaults", listed)
        for key, value in self.key_defaults.items():
            if _has_place(found, key):
                _put_default(found, key, value, "key_defaults", of_tables)
        return found

    def _defaults_of_fields(self, action: str) -> dict[str, Any]:
        """The defaults of the fields of a schema that has none as a whole."""
        with contextlib.suppress(MaeError, OSError, ValueError, RecursionError, AttributeError):
            schema = json.loads(bundle_text(self.root, self.schema_path(action)))
            return {} if "default" in schema or self.partial else _defaults_of(schema)
        return {}

    def _named_in_tables(self, action: str) -> list[str]:
        """The fields of an action that its schema and the tables of the bundle name."""
        found = [one for table in self._tables(action).values() for one in table]
        of_all = [*self.shorthand.values(), self.info.get("gpu_spec_key")]
        # A table of every action says nothing of the sections of this one but for its own.
        found += [one for one in of_all if isinstance(one, str) and one.split(".")[0] == action]
        with contextlib.suppress(MaeError, OSError, ValueError, RecursionError, AttributeError):
            found += field_nodes(json.loads(bundle_text(self.root, self.schema_path(action))))
        return found

    def default_keys(self, action: str) -> dict[str, str]:
        """The fields whose value in the template is not of its file: field → the key that says
        it."""
        found = dict.fromkeys(_action_defaults(self.action(action)), f"actions.{action}.defaults")
        template: Mapping[str, Any] = {}
        with contextlib.suppress(MaeError):
            template = self._template(action) if self.key_defaults else {}
        placed = [key for key in self.key_defaults if _has_place(template, key)]
        return {**found, **dict.fromkeys(placed, "key_defaults")}

    @property
    def shorthand(self) -> dict[str, str]:
        """Short word → the dotted key that it stands for."""
        found = self.info.get("spec_shorthand_keys") or {}
        return {str(word): key for word, key in found.items() if isinstance(key, str)}

    @property
    def key_defaults(self) -> dict[str, Any]:
        """Dotted key → the value that the bundle sets before anybody else."""
        found = self.info.get("key_defaults")
        return dict(_leaves(found)) if isinstance(found, dict) else {}


_NORMAL: dict[str, tuple[dict[str, Any], list[str]]] = {}
"""What `normalize` made of schemas: a process loads the same bundle again and again."""


def _normal(
    schema: Mapping[str, Any], *documents: Mapping[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """`normalize`, once for the same schema and documents."""
    key = repr((schema, documents))
    if key not in _NORMAL:
        if len(_NORMAL) >= MAX_NORMAL:
            _NORMAL.clear()
        _NORMAL[key] = normalize(schema, *documents)
    found, notes = _NORMAL[key]
    return found, list(notes)


def _said_otherwise(words: Sequence[Otherwise], where: str) -> list[str]:
    """A notice of words that readers of YAML take for different values."""
    if not words:
        return []
    said = (
        f"words of {where} that YAML 1.1 (PyYAML) reads otherwise: "
        f"{and_more(words, MAX_NAMED)}; YAML 1.2 is read here: write true, false "
        "or the number, or quote a text"
    )
    return [said]


def _defaults_of(schema: Mapping[str, Any]) -> dict[str, Any]:
    """What the ``default`` of each field of a schema says; that of a section goes before those of
    its fields. Null is no value, of a section too."""
    found: dict[str, Any] = {}
    properties = schema.get("properties")
    for name, node in properties.items() if isinstance(properties, Mapping) else ():
        own = node.get("default") if isinstance(node, Mapping) else None
        if not isinstance(node, Mapping) or ("default" in node and own is None) or "." in name:
            continue
        value = copy.deepcopy(own)
        if isinstance(below := node.get("properties"), Mapping) and below:
            value = _defaults_of(node)
            for key, one in _leaves(own) if isinstance(own, Mapping) else ():
                with contextlib.suppress(MaeError):
                    set_dotted(value, key, one)
        if value is not None and value != {}:
            found[str(name)] = value
    return found


_BY_ACTION = ("actions", "spec_params", "data_sources")
"""The tables of skill_info.yaml whose rows are of one action each."""


def _is_section(key: str, template: Mapping[str, Any], fields: Collection[str]) -> bool:
    """Whether a template or the fields of a schema have a section of this name."""
    return isinstance(get_dotted(template, key), Mapping) or any(
        one.startswith(f"{key}.") for one in fields
    )


def _put_default(
    template: dict[str, Any],
    key: str,
    value: Any,
    where: str,
    fields: Callable[[], Collection[str]],
) -> None:
    """Put a default of the bundle into its template; a section joins what is there.

    Args:
        fields: gives those of the schema and of the bundle's tables.

    Raises:
        SpecError: the value would replace a section.
    """
    here = get_dotted(template, key)
    if isinstance(here, Mapping):
        held = list(here)
    elif isinstance(value, Mapping) or here not in (None, "") or value in (None, NOT_GIVEN):
        held = []
    else:  # what the template lacks may be a section all the same
        held = [one.removeprefix(f"{key}.") for one in fields() if one.startswith(f"{key}.")]
    if value == {} and isinstance(here, Mapping):
        return
    if held or isinstance(here, Mapping):
        first = held[0] if held else "FIELD"
        raise SpecError(
            f"this value would replace a whole section: {key} holds "
            f"{', '.join(held[:3]) or 'fields'}{' …' if held[3:] else ''}",
            field=f"{where}.{key}",
            got=value,
            expected="a mapping of its fields, or the key of one field",
            hint=f"name the field that is meant, as {key}.{first}",
        )
    try:
        set_dotted(template, key, copy.deepcopy(value))
    except UsageError as error:  # a part of the key is a value, or a position that no list has
        raise SpecError(
            f"this value has no place in the template: {error.message}",
            field=f"{where}.{key}",
            got=value,
            expected=error.expected or "the key of a field of the template",
            hint=error.hint or "mend the bundle: name a field that its template can have",
        ) from error


def _leaves(table: Mapping[Any, Any], where: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key → value, of keys that may hold mappings of further keys."""
    for name, value in table.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{where}{name}.")
        else:
            yield f"{where}{name}", value


_TABLES = {"data_sources": 2, "spec_params": 1, "actions": 1, "key_defaults": 0, "inherit": 0}
"""The tables of ``skill_info.yaml``, and how many levels of mappings are below each."""

_ROWS = ("spec_templates", "spec_shorthand_keys", "cost_keys", "automl_keys")


def _check_tables(info: Mapping[str, Any]) -> dict[str, SpecError]:
    """Refuse a table that is no mapping. What is wrong below an action's name is that action's:
    it is taken out, and returned.

    Raises:
        SpecError: the first one.
    """

    def check(value: Any, key: str, depth: int) -> None:
        if value is None:
            return
        if not isinstance(value, dict):
            raise SpecError(
                "not a mapping in the bundle's skill_info.yaml",
                field=key,
                got=type(value).__name__,
                expected="a mapping",
            )
        for name, item in value.items() if depth else ():
            check(item, f"{key}.{name}", depth - 1)

    broken: dict[str, SpecError] = {}
    for name in (*_TABLES, *_ROWS):
        depth = _TABLES.get(name, 0)
        check(info.get(name), name, 0)
        for action, rows in (info.get(name) or {}).items() if depth else ():
            try:
                check(rows, f"{name}.{action}", depth - 1)
            except SpecError as error:
                if action not in info["actions"]:
                    raise
                broken.setdefault(action, error)
                info[name][action] = {}
    return broken


def _as_table(files: Any) -> Any:
    """The ``inputs`` or ``outputs`` of an entry as field → row. They may be a list of names, of
    rows with a ``name``, or of mappings of one field; a word is the type. Others stay as they are.
    """
    if isinstance(files, list):
        rows: dict[str, Any] = {}
        for one in files:
            if isinstance(one, str):
                pair: dict[str, Any] = {one: {}}
            elif isinstance(one, dict) and isinstance(one.get("name"), str):
                pair = {one["name"]: {key: row for key, row in one.items() if key != "name"}}
            elif isinstance(one, dict) and len(one) == 1:
                pair = one
            else:
                return files
            if rows.keys() & pair.keys():
                return files
            rows |= pair
        files = rows
    if not isinstance(files, dict):
        return files
    return {key: {"type": row} if isinstance(row, str) else row for key, row in files.items()}


def _what_is_there(root: Path) -> str:
    """Why a path is no bundle, in words."""
    try:
        if root.is_dir():
            return f"the folder has no {INFO}" if any(root.iterdir()) else "the folder is empty"
        return "it is a file" if root.exists() else "there is no such folder"
    except (OSError, ValueError) as error:
        return str(error)


def _bundles_near(root: Path) -> str | None:
    """The bundles right below a folder, and an info of another name in it."""
    with contextlib.suppress(OSError, ValueError):
        below = [*root.glob(f"*/references/{INFO}"), *root.glob(f"*/{INFO}")]
        folders = sorted({file.relative_to(root).parts[0] for file in below} - {"references"})
        if folders:
            return f"did you mean {root / folders[0]}? bundles here: {', '.join(folders[:5])}"
        for pattern in (f"*.{INFO}", "skill_info.yml", "skill_info.json"):
            named = [*root.glob(f"references/{pattern}"), *root.glob(pattern)]
            if named and pattern.startswith("*"):
                return f"one of the infos here is named by its file: {min(named)}"
            if named:
                return f"rename {named[0].relative_to(root)} to references/{INFO}"
    return None


def _drop_empty_rows(info: dict[str, Any]) -> list[str]:
    """Take the rows without a value, ``key:`` alone, out of the tables, and name them."""
    found: list[str] = []

    def clean(table: Any, where: str, *, is_mapping: bool = False) -> None:
        for name, row in list(table.items()) if isinstance(table, dict) else ():
            if row is None:
                del table[name]
                found.append(f"{where}.{name} (no value)")
            elif isinstance(row, dict) and is_mapping and is_nested(row):
                clean(row, f"{where}.{name}", is_mapping=True)
            elif isinstance(row, dict) and not is_mapping:
                clean(row.get("mapping"), f"{where}.{name}.mapping", is_mapping=True)

    for name in ("data_sources", "spec_params"):
        for action, rows in (info.get(name) or {}).items():
            clean(rows, f"{name}.{action}")
    return found


def _is_file(path: Path) -> bool:
    """Whether there is such a file, or a pipe or a device, which is an error where it is read; a
    name that no file can have names none."""
    try:
        return path.exists() and not path.is_dir()
    except (OSError, ValueError):
        return False


def _has_place(template: Mapping[str, Any], key: str) -> bool:
    """Whether a template has the section of a dotted key, and every list item that it names."""
    if not KEY.fullmatch(key) or split_index(key.split(".")[0])[0] not in template:
        return False
    here: Any = template
    for part in key.split("."):
        name, positions = split_index(part)
        if not isinstance(here, Mapping):
            return False
        if name not in here:
            return not positions
        here = here[name]
        for position in positions:
            if not isinstance(here, list) or position >= len(here):
                return False
            here = here[position]
    return True


def _is_new(key: str, listed: Mapping[str, Any], known: Collection[str]) -> bool:
    """Whether a key is in no schema, and its section lists other fields than it."""
    parts = key.split(".")
    if get_dotted(listed, key, MISSING) is not MISSING or any(
        ".".join(parts[:end]) in known for end in range(1, len(parts) + 1)
    ):
        return False
    section = get_dotted(listed, ".".join(parts[:-1])) if parts[1:] else listed
    return bool(section) and isinstance(section, Mapping)


def _action_defaults(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted key → value, of an entry's ``defaults`` and of its ``args`` where they are a mapping,
    or a list of mappings with a ``name``: a value, or ``{default: value}``; one that is required is
    not given yet. ``--key`` is the option of the field ``key``.
    """
    found: dict[str, Any] = {}
    for name in ("args", "defaults"):
        table = entry.get(name)
        for key, value in _options(table).items():
            plain = key.lstrip("-")
            if isinstance(value, Mapping) and (name == "args" or isinstance(table, list)):
                unset = NOT_GIVEN if value.get("required") else None
                found[plain] = value.get("default", value.get("value", unset))
            elif isinstance(value, Mapping) and value:
                found |= dict(_leaves(value, f"{plain}."))
            else:
                found[plain] = value
    return found


def option_names(args: Any) -> list[str]:
    """The names of the options in an entry's ``args``, as they are written there."""
    return list(_options(args))


def words_of_args(args: Any) -> dict[str, str]:
    """Option, without its hyphens → its value, of the options in an entry's ``args`` whose value is
    one word."""
    rows = {key.lstrip("-"): value for key, value in _options(args).items()}
    return {
        key: str(one)
        for key, one in rows.items()
        if isinstance(one, (str, int, float)) and not isinstance(one, bool)
    }


def default_names(defaults: Any) -> list[str]:
    """The same of an entry's ``defaults``, in which a section stands for its fields."""
    return list(dict(_leaves(defaults)) if isinstance(defaults, Mapping) else _options(defaults))


def _options(table: Any) -> dict[str, Any]:
    if isinstance(table, list):
        table = {one["name"]: one for one in table if isinstance(one, dict) and "name" in one}
    return {str(key): value for key, value in table.items()} if isinstance(table, Mapping) else {}


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


@functools.lru_cache(maxsize=1)
def _bundled(root: Path, stamp: tuple[object, ...]) -> Bundle:
    """The bundled skill, read once for each change of its files: judging them takes longer than
    all else of a plan."""
    return Bundle._at(root)


def _stamp(root: Path) -> tuple[object, ...]:
    """What changes with the files that a bundle is read from."""
    folders = [folder for name in ("references", "schemas") if (folder := root / name).is_dir()]
    files = [(entry.path, entry.stat()) for folder in folders for entry in os.scandir(folder)]
    return tuple(sorted((path, about.st_mtime_ns, about.st_size) for path, about in files))


@functools.lru_cache(maxsize=32)
def _read(path: Path, mtime_ns: int, size: int) -> dict[str, Any]:
    """A template; PyYAML needs a tenth of a second for one, so each is parsed once per change.

    Raises:
        SpecError: it cannot be read, or is no mapping.
    """
    if not path.is_file():  # the read of a pipe would wait for its writer
        raise SpecError(
            "a file of the bundle cannot be read: it is no regular file",
            field=path.name,
            got=str(path),
            expected="a text file in UTF-8",
        )
    try:
        return read_spec(path)
    except MaeError as error:
        reason = error.message.replace(str(path), path.name)
        raise SpecError(
            f"a file of the bundle cannot be read: {reason}",
            field=path.name,
            got=error.got,
            expected="YAML: a mapping",
            hint=None if isinstance(error, NotFoundError) else error.hint,
        ) from error


def _require_plain_names(section: Mapping[Any, Any], file: str, where: str = "") -> None:
    """Refuse a name in a template that reads as a dotted key: it would become nested sections.

    Raises:
        SpecError: the first such name.
    """
    for name, value in section.items():
        text = str(name)
        if "." in text or split_index(text)[1]:
            raise SpecError(
                "a name in the spec template reads as a dotted key",
                field=f"{file}: {where or 'its top'}",
                got=text,
                expected="names without . and [0]; nested sections, or a list of pairs",
            )
        if isinstance(value, Mapping):
            _require_plain_names(value, file, f"{where}.{text}" if where else text)


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
