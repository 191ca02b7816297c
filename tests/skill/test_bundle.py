"""Bundles: ours is whole, upstream's dialect is read, and what is missing or broken is said by
name.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from mae_skill import errors
from mae_skill.bundle import Bundle
from mae_skill.dialect import normalize
from mae_skill.dotted import field_nodes
from mae_skill.errors import MaeError, NotFoundError, SpecError, UsageError
from mae_skill.generate import error_classes
from mae_skill.reader import read_spec
from mae_skill.resolve import layers_of
from mae_skill.schema_check import check_schema

UPSTREAM: dict[str, Any] = {
    "type": "collection",
    "properties": {
        "train": {
            "type": "collection",
            "properties": {
                "epochs": {"type": "int", "default": 10, "valid_min": 1, "valid_max": float("inf")},
                "lr": {
                    "type": "float",
                    "default": 0.1,
                    "minimum": 0,
                    "maximum": float("inf"),
                    "math_cond": "> 0.0",
                },
                "mode": {"type": "categorical", "default": "a", "valid_options": ["a", "b"]},
                "path": {"type": "string", "default": ""},
                "optional": {"type": "int", "default": None},
                "layers": {"type": "list", "items": {"type": "int"}, "default": []},
                "odd": {"type": "tensor", "default": 1},
            },
        }
    },
}


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    (tmp_path / "references").mkdir()
    (tmp_path / "schemas").mkdir()
    (tmp_path / "references" / "skill_info.yaml").write_text(
        "name: other\nactions: {train: {command: run}, test: {command: run}}\n"
    )
    (tmp_path / "schemas" / "train.schema.json").write_text(json.dumps(UPSTREAM))
    return tmp_path


def test_upstreams_words_and_infinite_bounds_become_json_schema() -> None:
    schema, notes = normalize(UPSTREAM)
    Draft202012Validator.check_schema(schema)
    json.dumps(schema, allow_nan=False, default=str)
    fields = field_nodes(schema)
    assert (
        fields["train.epochs"]["type"],
        fields["train.epochs"]["minimum"],
        "maximum" in fields["train.epochs"],
    ) == (["integer", "null"], 1, False)
    assert fields["train.mode"]["enum"] == ["a", "b", None]
    assert fields["train.optional"]["type"] == ["integer", "null"]
    assert fields["train.lr"]["math_cond"] == "> 0.0"
    assert notes == ["train.odd: unknown type 'tensor' is not checked"]
    good = {
        "train": {
            "epochs": 1,
            "lr": 1e9,
            "mode": "b",
            "path": "",
            "optional": None,
            "layers": [1],
            "odd": object(),
        }
    }
    assert check_schema(good, schema) == []
    bad = {"train": {"epochs": 0, "lr": -1, "mode": "c", "layers": ["x"]}}
    assert {problem.field for problem in check_schema(bad, schema)} == {
        "train.epochs",
        "train.lr",
        "train.mode",
        "train.layers[0]",
    }


@pytest.mark.parametrize("action", Bundle.load().actions)
def test_a_schema_that_is_json_schema_already_stays_as_it_is(action: str) -> None:
    own = json.loads(Bundle.load().schema_path(action).read_text())
    assert normalize(own) == (own, [])


def test_a_bundle_of_another_make_is_read_with_infinity_in_its_file(foreign: Path) -> None:
    bundle = Bundle.load(foreign)
    assert "Infinity" in (foreign / "schemas" / "train.schema.json").read_text()
    assert field_nodes(bundle.schema("train"))["train.epochs"]["type"] == ["integer", "null"]
    assert bundle.notes["train"] == ["train.odd: unknown type 'tensor' is not checked"]
    assert bundle.manifest == {}


def test_every_key_of_ours_is_read() -> None:
    own = Bundle.load()
    assert [own.notices(action) for action in own.actions] == [[]] * len(own.actions)


def test_missing_and_broken_parts_are_named(foreign: Path, tmp_path: Path) -> None:
    bundle = Bundle.load(foreign)
    with pytest.raises(NotFoundError, match="no schema"):
        bundle.schema("test")
    with pytest.raises(NotFoundError, match="no spec template"):
        bundle.template("train")
    (foreign / "references" / "spec_template_train.yaml").write_text("train: [")
    with pytest.raises(SpecError, match="not valid YAML"):
        bundle.template("train")
    for text, says in (("{", "not JSON"), ("[]", "no fields"), ('{"type": "object"}', "no fields")):
        (foreign / "schemas" / "test.schema.json").write_text(text)
        with pytest.raises(SpecError, match=says):
            bundle.schema("test")
    with pytest.raises(UsageError, match="no such action") as caught:
        bundle.schema("prune")
    assert caught.value.expected == "one of train, test"
    with pytest.raises(NotFoundError, match="no skill bundle"):
        Bundle.load(tmp_path / "nowhere")
    (foreign / "references" / "skill_info.yaml").write_text("name: other\n")
    with pytest.raises(SpecError, match="no actions"):
        Bundle.load(foreign)


def test_without_spec_params_the_table_of_the_page_is_read_and_ours_says_the_same(
    foreign: Path,
) -> None:
    own = Bundle.load()
    page = (own.root / "references" / "mappings.md").read_text()
    (foreign / "SKILL.md").write_text(
        f"# Other\n\n{page}\n## After\n\n| train | x | not_a_mapping |\n"
    )
    assert Bundle.load(foreign).spec_params == own.spec_params == own.info["spec_params"]


def test_mappings_and_data_sources_name_fields_that_exist() -> None:
    own = Bundle.load()
    for action in own.actions:
        fields = field_nodes(own.schema(action))
        named = [
            *own.spec_params[action],
            *own.info.get("data_sources", {}).get(action, {}),
            *own.info["inherit"].get(action, ()),
        ]
        assert [key for key in (*named, *own.action(action)["inputs"]) if key not in fields] == []
        words = own.action(action)["command"].split()
        assert words[:4] == ["{python}", "-m", "mae_runners", action]
    assert "train.stage" not in own.info["inherit"]["train"]
    assert all(
        key in field_nodes(own.schema("train")) for key in own.info["spec_shorthand_keys"].values()
    )
    deploy = read_spec(own.root / "references" / "tao-deploy-mask-auto-encoder.skill_info.yaml")
    assert "gen_trt_engine" in deploy["actions"]


EXITS = {
    "spec_invalid": 2,
    "usage": 2,
    "data": 3,
    "not_found": 4,
    "checkpoint": 4,
    "job_failed": 5,
    "numeric": 5,
    "job_canceled": 6,
    "missing_dependency": 7,
    "storage": 8,
    "still_running": 9,
    "preempted": 75,
}


def test_codes_and_exits_are_the_documented_ones_and_the_tree_and_catalog_list_them() -> None:
    assert {kind.code: kind.exit_code for kind in error_classes()} == EXITS
    assert {kind.code for kind in error_classes() if kind.default_retryable} == {
        "storage",
        "still_running",
        "preempted",
    }
    tree = dict(re.findall(r"── \w+ +(\w+) +(\d+)", str(errors.__doc__)))
    assert {code: str(number) for code, number in EXITS.items()} == tree
    page = (Bundle.load().root / "references" / "error_catalogue.md").read_text()
    rows = {
        code: int(number)
        for code, number in re.findall(r"^\| `(\w+)` \| (\d+) \|", page, re.MULTILINE)
    }
    assert rows == {**EXITS, "internal": 1, "interrupted": 130}


@pytest.mark.parametrize("kind", error_classes(), ids=lambda kind: kind.code)
def test_an_error_crosses_processes_and_json_with_all_it_says(kind: type[MaeError]) -> None:
    import pickle

    error = kind("wrong", field="train.seed", got={1, 2}, expected="one", hint="mend it")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is kind
    assert copy.to_dict() == error.to_dict() == json.loads(json.dumps(error.to_dict()))
    assert str(copy).splitlines()[0] == "train.seed: wrong"
    assert copy.exit_code == EXITS[kind.code]


def test_links_of_the_skill_page_resolve() -> None:
    root = Bundle.load().root
    found = [
        target.partition("#")[0]
        for target in re.findall(r"\]\(([^)\s]+)\)", (root / "SKILL.md").read_text())
        if "://" not in target
    ]
    assert found
    assert [target for target in found if target and not (root / target).is_file()] == []


@pytest.mark.parametrize("word", ["$ref", "$dynamicRef"])
@pytest.mark.parametrize(
    "target", ["http://127.0.0.1:9/x.json", "file:///etc/passwd", "other.json", "//host/x", 5]
)
def test_a_schema_that_refers_to_something_outside_is_refused_and_nothing_is_fetched(
    tmp_path: Path, word: str, target: object
) -> None:
    (tmp_path / "schemas").mkdir()
    (tmp_path / "skill_info.yaml").write_text("name: x\nactions: {train: {command: run}}\n")
    schema = {"properties": {"a": {"properties": {"b": {word: target}}}}}
    (tmp_path / "schemas" / "train.schema.json").write_text(json.dumps(schema))
    with pytest.raises(UsageError, match="outside") as caught:
        layers_of(Bundle.load(tmp_path), "train", {"a": {"b": 1}})
    assert str(target) in str(caught.value)


@pytest.mark.parametrize(
    ("node", "fine"),
    [
        ({"$ref": "#/$defs/n"}, True),
        ({"$ref": "#/$defs/none"}, False),
        ({"$ref": "#/$defs/loop"}, False),
        ({"pattern": "("}, False),
    ],
)
def test_a_schemas_own_references_are_followed_and_broken_ones_are_said(
    tmp_path: Path, node: dict[str, object], fine: bool
) -> None:
    definitions = {"n": {"type": "integer"}, "loop": {"$ref": "#/$defs/loop"}}
    schema = {"$defs": definitions, "properties": {"a": node}}
    if fine:
        assert [error.field for error in check_schema({"a": "x"}, schema)][:1] in (["a"], [])
    else:
        with pytest.raises(UsageError, match="schema cannot be used"):
            check_schema({"a": "x"}, schema)


def test_a_template_is_made_once_for_each_change_of_its_file_and_every_caller_has_a_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    references = tmp_path / "references"
    references.mkdir()
    (references / "skill_info.yaml").write_text("actions: {train: {command: echo}}\n")
    file = references / "spec_template_train.yaml"
    file.write_text("lr: 0.1\nparts: {names: [a]}\n")
    made: list[str] = []
    monkeypatch.setattr(
        "mae_skill.bundle._require_plain_names", lambda found, name: made.append(name)
    )
    bundle = Bundle.load(tmp_path)

    bundle.template("train")["parts"]["names"].append("b")
    bundle.notices("train")

    assert bundle.template("train") == {"lr": 0.1, "parts": {"names": ["a"]}}
    assert made == [file.name]

    file.write_text("lr: 0.25\nparts: {names: [a]}\n")

    assert bundle.template("train")["lr"] == 0.25
    assert made == [file.name] * 2
