"""The reader takes YAML 1.2 and JSON as they mean, and refuses what has two readings."""

from __future__ import annotations

import io
import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from mae_skill.errors import NotFoundError, SpecError, UsageError
from mae_skill.reader import MAX_BYTES, dump_yaml, parse_value, parse_yaml, read_spec


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
    assert (caught.value.field.split("[")[0], caught.value.hint) == ("train.optim.lr", "line 2")
    with pytest.raises(SpecError, match="finite"):
        parse_value(text)


@pytest.mark.parametrize(
    "text",
    [
        "train:\n  seed: 1\n  seed: 2\n",
        '{"train":\n {"seed": 1,\n "seed": 2}}',
        "train:\n  seed: 1\n  ? seed\n  : 2\n",
    ],
    ids=["yaml", "json", "explicit"],
)
def test_a_key_given_twice_is_refused_with_its_name_and_both_lines(text: str) -> None:
    with pytest.raises(SpecError, match="twice, on lines 2 and 3") as caught:
        parse_yaml(text)
    assert (caught.value.field, caught.value.hint) == ("train.seed", "line 3")


def test_a_section_merges_others_and_says_the_last_word_itself() -> None:
    text = """
        base: &base {lr: 1, decay: 2}
        more: &more {lr: 3, extra: 4}
        own: {<<: *base, lr: 5}
        both: {lr: 6, <<: [*more, *base]}
        first: {<<: [*more, *base]}
        nested: &nested {<<: *base, x: 1}
        again: {<<: *nested}
        inline: {<<: {a: 1}}
        empty: {<<: []}
        quoted: {"<<": 1}
    """
    assert parse_yaml(text) == {
        "base": {"lr": 1, "decay": 2},
        "more": {"lr": 3, "extra": 4},
        "own": {"lr": 5, "decay": 2},
        "both": {"lr": 6, "extra": 4, "decay": 2},
        "first": {"lr": 3, "extra": 4, "decay": 2},
        "nested": {"lr": 1, "decay": 2, "x": 1},
        "again": {"lr": 1, "decay": 2, "x": 1},
        "inline": {"a": 1},
        "empty": {},
        "quoted": {"<<": 1},
    }


@pytest.mark.parametrize(
    ("text", "message", "line"),
    [
        ("a: {<<: 3}", "merges something that is no section", 1),
        ("a:\n  <<: [{x: 1}, 2]", "merges something that is no section", 2),
        ("a: &a\n  <<: *a", "into itself", 2),
        ("b: &b {x: 1}\na:\n  <<: *b\n  <<: *b", "twice, on lines 3 and 4", 4),
        ("a: &a [1, *a]", "contains itself", 1),
    ],
)
def test_a_merge_or_alias_that_cannot_be_is_refused_with_its_line(
    text: str, message: str, line: int
) -> None:
    with pytest.raises(SpecError, match=message) as caught:
        parse_yaml(text)
    assert str(caught.value.hint).startswith(f"line {line}")


def bomb(leaf: str, step: str) -> str:
    lines = [f"a0: &a0 {leaf}"]
    lines += [f"a{n}: &a{n} {step.replace('*', f'*a{n - 1}')}" for n in range(1, 12)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    "text",
    [
        bomb("[x, x, x, x, x, x, x, x, x]", "[*, *, *, *, *, *, *, *, *]"),
        bomb("{k: v}", "{a: *, b: *, c: *, d: *, e: *, f: *, g: *, h: *}"),
        bomb("{k: [v, v, v]}", "{x: *, y: *, z: {<<: *}, k: {<<: [*, *]}}"),
        "a: &a [" + "x, " * 30_000 + "]\n" + "b: [" + "*a, " * 100 + "]",
        "a: &a {" + ", ".join(f"k{n}: 1" for n in range(5000)) + "}\n"
        "b: {<<: [" + "*a, " * 1000 + "]}",
    ],
    ids=["lists", "mappings", "merges", "wide", "wide merges"],
)
def test_aliases_that_stand_for_too_much_are_refused_at_once(text: str) -> None:
    start = time.process_time()
    with pytest.raises(SpecError, match="holds too much"):
        parse_yaml(text)
    assert time.process_time() - start < 2 * (1 + len(text) / 2**17)


@pytest.mark.parametrize(
    ("text", "tag"),
    [
        ("!!bool x", "!!bool"),
        ("!!bool yes", "!!bool"),
        ("!!int x", "!!int"),
        ("!!int 1.5", "!!int"),
        ("!!float x", "!!float"),
        ("!!null x", "!!null"),
        ("!!null 0", "!!null"),
        ("!!timestamp 2026-01-02", "!!timestamp"),
        ("!!binary aGk=", "!!binary"),
        ("!!set {a, b}", "!!set"),
        ("!!omap [a: 1]", "!!omap"),
        ("!!pairs [a: 1]", "!!pairs"),
        ("!!seq {a: 1}", "!!seq"),
        ("!!map [1]", "!!map"),
        ("!!str [1]", "!!str"),
        ("!!str {a: 1}", "!!str"),
        ("!!seq x", "!!seq"),
        ("!!merge <<", "!!merge"),
        ("!!value =", "!!value"),
        ("!!yaml x", "!!yaml"),
        ("!!python/none", "!!python/none"),
        ("!!python/tuple [1]", "!!python/tuple"),
        ("!!python/name:os.system", "!!python/name:os.system"),
        ("!!python/object/apply:os.system [ls]", "!!python/object/apply:os.system"),
        ("!own x", "!own"),
        ("!own {a: 1}", "!own"),
        ("!<tag:example.com,2026:x> 1", "tag:example.com,2026:x"),
    ],
)
def test_a_tag_that_asks_for_more_than_a_plain_value_is_one_error_with_its_line(
    text: str, tag: str
) -> None:
    with pytest.raises(SpecError, match="has a tag that cannot be read") as caught:
        parse_yaml(f"a: 1\ntrain: {{x: {text} }}", "spec.yaml")
    assert caught.value.got == tag
    assert caught.value.field == "train.x"
    assert str(caught.value.hint).startswith("line 2")


def test_a_tag_that_says_what_the_value_is_is_read() -> None:
    text = "[!!str 3, !!int 3, !!float 3, !!bool true, !!null ~, !!seq [1], !!map {a: 1}, ! x]"
    found = parse_yaml(text)
    assert found == ["3", 3, 3.0, True, None, [1], {"a": 1}, "x"]
    assert isinstance(found[2], float)


def test_depth_and_size_are_bounded() -> None:
    deep = "{a: " * 63 + "1" + "}" * 63
    assert parse_yaml(deep)
    for text in ("{a: " * 65 + "1" + "}" * 65, "- " * 400 + "x", "? " * 400 + "x"):
        with pytest.raises(SpecError, match="too deep"):
            parse_yaml(text)
    with pytest.raises(SpecError, match="too large"):
        parse_yaml("x" * (MAX_BYTES + 1))


def test_json_escapes_of_one_character_are_one_character_and_halves_are_refused() -> None:
    assert parse_yaml(json.dumps({"name": "a😀b"})) == {"name": "a😀b"}
    for half in ("\\ud83d", "\\ude00x", "\\ude00\\ud83d"):
        with pytest.raises(SpecError, match="half a character") as caught:
            parse_yaml(f'wandb:\n  name: "{half}"')
        assert (caught.value.field, caught.value.hint) == ("wandb.name", "line 2")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a:\n\tb: 1", "spaces"),
        ("a: 1\n---\nb: 2", "one document"),
        ("a: \x01", "control character"),
    ],
)
def test_the_usual_slips_come_with_their_cure(text: str, said: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_yaml(text)
    assert said in str(caught.value.hint)


@pytest.mark.parametrize("text", ["9" * 500, "-" + "9" * 5000, "0x" + "f" * 500])
def test_a_number_of_too_many_digits_names_its_field(text: str) -> None:
    with pytest.raises(SpecError, match="finite") as caught:
        parse_yaml(f"train:\n  seed: {text}")
    assert caught.value.field == "train.seed"
    assert len(str(caught.value)) < 300


def test_bytes_are_read_as_utf_8_or_refused_with_their_line(tmp_path: Path) -> None:
    file = tmp_path / "spec.yaml"
    file.write_bytes(b"\xef\xbb\xbftrain: {seed: 1}")
    assert read_spec(file) == {"train": {"seed": 1}}
    file.write_bytes("train: {seed: 1}".encode("utf-16"))
    with pytest.raises(UsageError) as caught:
        read_spec(file)
    assert "UTF-16" in str(caught.value.hint)
    file.write_bytes("train: {seed: 1}".encode("utf-16-le"))
    with pytest.raises(UsageError, match="text"):
        read_spec(file)
    file.write_bytes(b"a: 1\nb: caf\xe9\n")
    with pytest.raises(UsageError) as caught:
        read_spec(file)
    assert "0xe9 on line 2" in str(caught.value.hint)
    for empty in (b"", b"\xef\xbb\xbf", b"# nothing", b"---\n...\n", b"null"):
        file.write_bytes(empty)
        assert read_spec(file) == {}
    for other in (b"- 1", b"text", b"3", b"true", b"[]"):
        file.write_bytes(other)
        with pytest.raises(SpecError, match="is not a spec"):
            read_spec(file)


def test_a_huge_file_is_refused_without_reading_it(tmp_path: Path) -> None:
    file = tmp_path / "spec.yaml"
    with file.open("wb") as sparse:
        sparse.truncate(2**40)
    with pytest.raises(SpecError, match="too large"):
        read_spec(file)
    with pytest.raises(SpecError, match="too large"):
        read_spec("/dev/zero")


def test_a_pipe_is_read_once_and_waited_for(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)

    def write() -> None:
        time.sleep(0.3)
        with pipe.open("w") as file:
            file.write("train:\n")
            file.flush()
            time.sleep(0.3)
            file.write("  seed: 7\n")

    writer = threading.Thread(target=write)
    writer.start()
    assert read_spec(pipe) == {"train": {"seed": 7}}
    writer.join()


def test_a_descriptor_of_a_pipe_is_a_spec_file() -> None:
    end, start = os.pipe()
    os.write(start, b"train: {seed: 3}")
    os.close(start)
    try:
        assert read_spec(f"/dev/fd/{end}") == {"train": {"seed": 3}}
    finally:
        os.close(end)


def test_a_pipe_that_nobody_writes_into_ends_with_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    monkeypatch.setattr("mae_skill.reader.PIPE_SECONDS", 0.3)
    with pytest.raises(UsageError, match="nothing comes"):
        read_spec(pipe)


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
