"""Values that no file, path or URL can hold are refused by field; one fault is one error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mae_sdk import Skill
from mae_sdk.storage import urls
from mae_skill.dotted import flatten
from mae_skill.errors import MaeError, StorageError, UsageError
from mae_skill.texts import url_problem

from tests.support.images import write_flat


def refused(root: Path, **options: Any) -> MaeError:
    with pytest.raises(MaeError) as caught:
        Skill().plan("train", automl_policy="off", results_root=str(root), **options)
    return caught.value


@pytest.mark.parametrize(
    "value",
    ["http://[::1", "https://", "s3://", "s3:///key", "http://host:x/", "http://host:99999/"],
)
def test_a_url_that_cannot_be_one_is_refused_by_field(tmp_path: Path, value: str) -> None:
    for key in ("dataset.train_data_sources", "train.pretrained_model_path"):
        error = refused(tmp_path / "r", spec={key: value})
        assert f"{key}: not a URL" in str(error)
    assert refused(tmp_path / "r", train_datasets=value).field == "train_datasets"
    assert refused(tmp_path / "r", ptm=value).field == "ptm"
    assert refused(tmp_path / "r", spec={"results_dir": value})


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("file://", "the file URL names no path"),
        ("file://host/x", "the file URL names a host"),
        ("http:/host/x", "two slashes"),
        ("s3:bucket/x", None),
        ("file:/x", "two slashes"),
        ("data:image/png;base64,AAAA", "a data: URL is no place"),
        ("zip://a::/x.zip", "a URL inside another URL"),
        ("zip://a", "a URL inside another URL"),
        ("simplecache://host/x", "a URL inside another URL"),
    ],
)
def test_a_url_of_a_wrong_form_is_no_path(tmp_path: Path, value: str, says: str | None) -> None:
    if says is None:
        assert url_problem(value) is None and url_problem("http://[::1]:80/x") is None
        return
    for options in (
        {"spec": {"train.pretrained_model_path": value}},
        {"spec_overrides": {"dataset.train_data_sources": value}},
        {"train_datasets": value},
        {"ptm": value},
    ):
        assert says in str(refused(tmp_path / "r", **options))


def test_a_file_url_of_this_host_is_its_path() -> None:
    assert urls.local_path("file://localhost/a/b") == urls.local_path("file:///a/b") == Path("/a/b")


@pytest.mark.parametrize("value", ["a\0b", "\ud800", "x\udce9"])
def test_a_text_that_no_file_can_hold_is_refused_by_field(tmp_path: Path, value: str) -> None:
    for key in ("model_name", "dataset.train_data_sources", "wandb.tags"):
        here: Any = [value] if key == "wandb.tags" else value
        error = refused(tmp_path / "r", spec_overrides={key: here})
        assert key in str(error)
        assert "no file or path can hold" in str(error)
    assert "can hold" in str(refused(tmp_path / "r", spec={"train": {value: 1}}))


def test_a_source_that_is_not_given_is_said(tmp_path: Path) -> None:
    assert "must be given" in str(refused(tmp_path / "r", train_datasets="???"))


def test_a_store_that_does_not_answer_is_one_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "y")
    monkeypatch.setattr("mae_sdk.storage.retry.time.sleep", lambda seconds: None)
    error = refused(tmp_path / "r", train_datasets="s3://bucket/data")
    assert (error.code, error.field) == ("storage", "train_datasets")


@pytest.mark.parametrize("env", [{1: 2}, {None: "x"}, {"A": None}, [1], "A=1", 5])
def test_an_environment_of_other_types_is_planned_or_refused_by_field(
    tmp_path: Path, env: Any
) -> None:
    try:
        Skill().plan("train", automl_policy="off", results_root=str(tmp_path / "r"), env=env)
    except MaeError as error:
        assert error.exit_code in (2, 3)
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    "options",
    [
        {"train_datasets": "x" * 300},
        {"eval_dataset": "x" * 300},
        {"ptm": "a/" * 2500},
        {"results_root": "x" * 300},
        {"spec_overrides": {"train.resume_training_checkpoint_path": "x" * 300}},
        {"spec_overrides": {"train": {"teacher": {"checkpoint": "x" * 300}}}},
    ],
    ids=lambda options: next(iter(options)),
)
def test_a_name_that_no_file_can_have_is_an_error_of_its_field(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    write_flat(tmp_path / "data")
    asked = {"train_datasets": str(tmp_path / "data"), "automl_policy": "off", **options}

    with pytest.raises(UsageError, match="no file can be there: file name too long") as caught:
        Skill().plan("train", **asked)

    name, value = next(iter(options.items()))
    assert caught.value.field == (next(iter(flatten(value))) if name == "spec_overrides" else name)


def test_a_results_root_that_is_a_link_in_a_circle_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")

    with pytest.raises(StorageError, match="cannot be listed"):
        list(Skill().jobs(results_root=tmp_path / "loop"))
