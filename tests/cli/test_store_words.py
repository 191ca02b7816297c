"""A fault of a store is said in the same words by plan, inspect, the cache, MCP's documents, the
job's root and the runner's data, with the documented exit code."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mae_sdk.cli.main import main
from mae_sdk.storage import retry

from tests.support.s3 import MotoServer, environment


@pytest.fixture(scope="module")
def store() -> Iterator[MotoServer]:
    import boto3

    with MotoServer() as server, environment(server.env):
        boto3.client("s3").create_bucket(Bucket="there")
        yield server


def said(*words: str) -> tuple[int, dict[str, Any]]:
    """The exit code of a command, and its error (empty where there is none)."""
    out, err = io.StringIO(), io.StringIO()
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as left,
    ):
        main([*words, "--json"])
    document = json.loads(err.getvalue().strip().splitlines()[-1]) if left.value.code else {}
    return int(left.value.code or 0), document.get("error", document)


CASES = [
    ("s3://none-such/x.tar", "there is no bucket 'none-such'", 3),
    ("s3://none-such/folder", "there is no bucket 'none-such'", 3),
    ("s3://there/none.tar", "there is no data source at s3://there/none.tar", 3),
    ("http://127.0.0.1:9/x.tar", "127.0.0.1:9 cannot be reached", 8),
    ("s3://", "the URL names no bucket", 2),
]


@pytest.mark.parametrize(("url", "words", "code"), CASES)
def test_plan_and_inspect_say_the_same(
    url: str, words: str, code: int, store: MotoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry.time, "sleep", lambda seconds: None)
    with environment(store.env):
        for command in (
            ("inspect", url),
            ("plan", "train", "--train-datasets", url, "--automl-policy", "off"),
        ):
            status, error = said(*command)
            assert (status, error["exit_code"]) == (code, code), (command, error)
            assert words in json.dumps(error, ensure_ascii=False), command
            assert "name the archive itself" not in json.dumps(error)
            problems = error.get("problems") or [error]
            assert len(problems) == 1, problems


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, "the store at http://127.0.0.1:9 cannot"),
        ({"AWS_ENDPOINT_URL": "no-url"}, "the address of the store, AWS_ENDPOINT_URL, is no URL"),
    ],
)
def test_a_store_that_is_not_there_is_one_error_of_a_plan(
    settings: dict[str, str], words: str, store: MotoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry.time, "sleep", lambda seconds: None)
    with environment({**store.env, **settings}):
        url = "s3://there/x.tar"
        plan = ("plan", "train", "--train-datasets", url, "--automl-policy", "off")
        for command in (("inspect", url), plan):
            _, error = said(*command)
            assert words in json.dumps(error), command
            assert not error.get("problems")


def test_a_results_root_without_a_bucket_is_said_so(store: MotoServer) -> None:
    with environment(store.env):
        for command in (("list",), ("status", "train-000000000000")):
            status, error = said("jobs", *command, "--results-root", "s3://none-such/r")
            assert (status, error["message"]) == (4, "there is no bucket 'none-such'")
        assert said("jobs", "list", "--results-root", "s3://there/r")[0] == 0
        assert said("jobs", "list", "--results-root", "https://host/r")[0] == 2


def test_a_runner_says_it_in_the_same_words(store: MotoServer, tmp_path: Path) -> None:
    from mae_sdk.data import open_source
    from mae_skill.errors import DataError

    with environment(store.env), pytest.raises(DataError) as caught:
        open_source("s3://none-such/x.tar", cache_dir=tmp_path)
    assert caught.value.message == "there is no bucket 'none-such'"
