"""The reader takes YAML 1.2 and JSON as they mean, and refuses what has two readings."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from mae_skill.errors import NotFoundError, SpecError, UsageError
from mae_skill.reader import dump_yaml, parse_value, parse_yaml, read_spec


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2e-4", 2e-4),
        ("1E3", 1000.0),
        ("-.5", -0.5),
        ("5.", 5.0),
        ("+3", 3),
        ("012", 12),
        ("0o14", 12),
        ("0x1F", 31),
        ("1:30", "1:30"),
        ("1_000", "1_000"),
        ("on", "on"),
        ("Off", "Off"),
        ("yes", "yes"),
        ("n", "n"),
        ("True", True),
        ("false", False),
        ("~", None),
        ("", None),
        ("null", None),
        ("none", "none"),
        ("2026-01-02", "2026-01-02"),
        ("1e", "1e"),
        ("1.2.3", "1.2.3"),
        ("[224, 2e2]", [224, 200.0]),
        ('"2e-4"', "2e-4"),
        ("<<", "<<"),
        ("=", "="),
        ("a: b: c", "a: b: c"),
        ("*.png", "*.png"),
    ],
)
def test_a_value_is_read_by_yaml_1_2(text: str, value: Any) -> None:
    found = parse_value(text)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("text", [".inf", "-.inf", ".nan", ".NaN", "1e999", "[1, .inf]"])
def test_numbers_that_are_not_finite_are_refused_with_their_line(text: str) -> None:
    with pytest.raises(SpecError, match="finite") as caught:
        parse_yaml(f"train:\n  optim: {{lr: {text}}}\n")
    assert caught.value.hint == "line 2"
    with pytest.raises(SpecError, match="finite"):
        parse_value(text)


def test_a_key_given_twice_is_refused_with_its_name_and_line() -> None:
    with pytest.raises(SpecError, match="twice") as caught:
        parse_yaml("train:\n  seed: 1\n  seed: 2\n")
    assert (caught.value.field, caught.value.hint) == ("seed", "line 3")


def test_json_reads_alike() -> None:
    document = {
        "train": {
            "optim": {"lr": 2e-4, "milestones": [88, 96]},
            "freeze": [],
            "resume": None,
            "on": True,
        },
        "text": 'a"b\\c\u00e9',
    }
    assert parse_yaml(json.dumps(document)) == document
    assert parse_yaml(json.dumps(document, indent=2)) == document


@pytest.mark.parametrize(
    "text",
    [
        "a: [1, 2",
        "a: b: c",
        "\ta: 1",
        "a: !!python/object:os.system x",
        "a: *nowhere",
        "a: 1\n--- \nb: 2",
        "\x00",
    ],
)
def test_text_that_is_no_yaml_is_a_spec_error_that_names_the_source(text: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_yaml(text, "spec.yaml")
    assert "spec.yaml" in caught.value.message


def test_a_deep_or_self_containing_document_is_refused_cleanly() -> None:
    for text in ("[" * 5000 + "]" * 5000, "a: &a [*a]"):
        with pytest.raises(SpecError):
            parse_yaml(text)


@pytest.mark.parametrize("key", ["1", "true", "null", "[1, 2]", "{a: 1}"])
def test_a_key_that_is_not_text_is_refused(key: str) -> None:
    with pytest.raises(SpecError, match="key must be text"):
        parse_yaml(f"? {key}\n: 1\n")


def test_a_file_that_is_missing_binary_or_no_mapping_has_its_own_error(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        read_spec(tmp_path / "none.yaml")
    with pytest.raises(NotFoundError):
        read_spec(tmp_path)
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(UsageError, match="text"):
        read_spec(tmp_path / "binary.yaml")
    (tmp_path / "list.yaml").write_text("- a\n- b\n")
    with pytest.raises(SpecError, match="not a spec"):
        read_spec(tmp_path / "list.yaml")
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    assert read_spec(tmp_path / "empty.yaml") == {}


def test_a_dash_reads_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("train: {num_epochs: 3}"))
    assert read_spec("-") == {"train": {"num_epochs": 3}}


scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20)
)
documents = st.dictionaries(
    st.text(min_size=1, max_size=10),
    st.recursive(
        scalars,
        lambda inner: (
            st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
        ),
        max_leaves=8,
    ),
    max_size=5,
)
words = st.sampled_from(
    [
        "on",
        "off",
        "yes",
        "1e5",
        "2e-4",
        "012",
        "1:30",
        "~",
        "",
        "null",
        "0x1F",
        "2026-01-02",
        "1_000",
        ".inf",
        "0o7",
        "=",
        "<<",
    ]
)


@settings(max_examples=200, deadline=None)
@given(documents | st.dictionaries(words, words | st.lists(words, max_size=3), max_size=4))
def test_what_is_dumped_reads_back_the_same_with_the_same_types(document: dict[str, Any]) -> None:
    text = dump_yaml(document)
    found = parse_yaml(text)
    assert found == document
    assert repr(found) == repr(document)


@settings(max_examples=100, deadline=None)
@given(
    st.dictionaries(
        st.text("abc", min_size=1, max_size=3),
        st.floats(allow_nan=False, allow_infinity=False) | words,
        max_size=4,
    )
)
def test_what_is_dumped_reads_alike_under_yaml_1_1(document: dict[str, Any]) -> None:
    assert yaml.safe_load(dump_yaml(document)) == document
