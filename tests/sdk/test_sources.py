"""Data sources of an action: archives, folders, prefixes, lists, and what is missing."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given as for_all
from hypothesis import strategies as st
from mae_sdk.plan.sources import locate
from mae_skill.bundle import Bundle
from mae_skill.dotted import flatten, get_dotted, set_dotted
from mae_skill.errors import DataError, MaeError, UsageError
from mae_skill.reader import parse_override
from mae_skill.resolve import layers_of, resolve

from tests.support.s3 import S3Server, environment

INFO = Bundle.load().info
TRAIN, VAL, TEST = (
    "dataset.train_data_sources",
    "dataset.val_data_sources",
    "dataset.test_data_sources",
)


@pytest.fixture
def places(tmp_path: Path) -> Path:
    for name in (
        "packed/images_train.tar.gz",
        "packed/images_val.tar.gz",
        "plain/cats/1.png",
        "other.TAR",
        ".hidden/x",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "empty").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("packed", "packed/images_train.tar.gz"),
        ("packed/images_val.tar.gz", "packed/images_val.tar.gz"),
        ("other.TAR", "other.TAR"),
        ("plain", "plain"),
        (["packed", "plain"], ["packed/images_train.tar.gz", "plain"]),
    ],
)
def test_a_source_is_an_archive_a_place_of_one_or_a_folder(
    places: Path, source: Any, expected: Any
) -> None:
    here = (
        [str(places / one) for one in source] if isinstance(source, list) else str(places / source)
    )
    there = (
        [str(places / one) for one in expected]
        if isinstance(expected, list)
        else str(places / expected)
    )
    assert locate("train", INFO, {"train_datasets": here}) == ({TRAIN: there}, [])


@pytest.mark.parametrize("name", ["empty", "missing", "missing.tar.gz", "other.TAR/below"])
def test_a_source_that_holds_nothing_names_what_was_tried(places: Path, name: str) -> None:
    values, errors = locate("train", INFO, {"train_datasets": str(places / name)})
    assert values == {} and [type(error) for error in errors] == [DataError]
    assert errors[0].field == "train_datasets" and str(errors[0].got).endswith(name)
    if not name.endswith(".gz"):
        assert f"{name}/images_train.tar.gz" in str(errors[0].expected)


@pytest.mark.parametrize(
    ("action", "settings", "missing", "option"),
    [
        ("train", {}, [TRAIN], "--train-datasets"),
        ("train", {TRAIN: "s3://b/d"}, [], ""),
        ("train", {TRAIN: None}, [TRAIN], "--train-datasets"),
        ("evaluate", {}, [VAL], "--eval-dataset"),
        ("inference", {}, [TEST], "--inference-dataset"),
        ("inference", {TEST: "s3://b/d"}, [], ""),
        ("export", {}, [], ""),
    ],
)
def test_required_data_that_is_missing_names_its_field_and_its_option(
    action: str, settings: dict[str, Any], missing: list[str], option: str
) -> None:
    bundle = Bundle.load()
    found = resolve(bundle, action, layers_of(bundle, action, settings))
    errors = [error for error in found.errors if "needs data" in error.message]
    assert [error.field for error in errors] == missing
    assert all(isinstance(error, DataError) and option in str(error.expected) for error in errors)


@pytest.mark.parametrize("source", ["", []])
def test_an_empty_source_never_means_everything(source: Any) -> None:
    values, errors = locate("train", INFO, {"train_datasets": source})
    assert values == {} and [error.field for error in errors] == ["train_datasets"]


def test_a_source_that_the_action_does_not_read_is_refused(places: Path) -> None:
    _, errors = locate(
        "export", INFO, {"inference_dataset": str(places / "plain"), "train_datasets": None}
    )
    assert [(type(error), error.field) for error in errors] == [(UsageError, "inference_dataset")]


@pytest.mark.parametrize("action", ["export", "gen_trt_engine"])
def test_an_export_and_an_engine_take_pictures_for_their_parity(action: str, places: Path) -> None:
    values, errors = locate(action, INFO, {"eval_dataset": str(places / "plain")})
    assert (values, errors) == ({VAL: str(places / "plain")}, [])


def test_every_problem_is_reported_at_once(places: Path) -> None:
    sources = {
        "train_datasets": [str(places / "empty"), str(places / "none")],
        "eval_dataset": str(places / "gone.zip"),
    }
    assert len(locate("train", INFO, sources)[1]) == 3


def test_a_bucket_is_searched_like_a_folder(tmp_path: Path) -> None:
    with S3Server(tmp_path) as server, environment(server.env):
        bucket = server.bucket("b")
        for name in ("packed/images_val.tar.gz", "plain/cats/1.png"):
            (bucket / name).parent.mkdir(parents=True)
            (bucket / name).write_bytes(b"x")
        for source, expected in (
            ("packed", "packed/images_val.tar.gz"),
            ("plain/", "plain/"),
            ("packed/images_val.tar.gz",) * 2,
        ):
            values, errors = locate("evaluate", INFO, {"eval_dataset": f"s3://b/{source}"})
            assert (values, errors) == ({VAL: f"s3://b/{expected}"}, [])
        for name in ("nothing", "nothing.tar.gz"):
            values, errors = locate("evaluate", INFO, {"eval_dataset": f"s3://b/{name}"})
            assert values == {} and f"s3://b/{name}" in str(errors[0])


@for_all(
    st.text(max_size=30) | st.lists(st.text(max_size=12), max_size=3),
    st.sampled_from(["train", "evaluate", "inference", "export"]),
)
def test_no_text_as_a_source_is_anything_but_a_value_or_a_clean_error(
    source: Any, action: str
) -> None:
    name = {
        "train": "train_datasets",
        "evaluate": "eval_dataset",
        "inference": "inference_dataset",
    }.get(action, "eval_dataset")
    if any("://" in one for one in ([source] if isinstance(source, str) else source)):
        return
    values, errors = locate(action, INFO, {name: source})
    assert values or errors
    assert all(
        isinstance(error, MaeError) and error.message and error.to_dict()["field"] == name
        for error in errors
    )


KEY = st.lists(
    st.text(string.ascii_lowercase + "_", min_size=1, max_size=6), min_size=1, max_size=4
).map(".".join)


@for_all(
    KEY,
    st.integers()
    | st.booleans()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.lists(st.integers(), max_size=3),
)
def test_an_override_comes_back_as_the_value_that_was_written(key: str, value: Any) -> None:
    import json

    name, found = parse_override(f"{key}={json.dumps(value)}")
    document: dict[str, Any] = {}
    set_dotted(document, name, found)
    assert name == key and found == value and type(found) is type(value)
    assert get_dotted(document, key) == value and flatten(document) == {key: value}


@for_all(st.text(max_size=40))
def test_any_text_as_an_override_is_a_pair_or_a_clean_error(text: str) -> None:
    try:
        key, _ = parse_override(text)
    except MaeError as error:
        assert error.message
    else:
        assert all(key.split("."))
