"""The same tree as folder, archives and prefix, wide; and a zip of 300,000 members."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from mae_sdk.data.archive import members
from mae_sdk.data.member import Limits

from tests.data.test_alike import compare
from tests.data.test_bounds import empty_zip
from tests.support.s3 import S3Server, environment
from tests.support.trees import Tree, trees


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with S3Server(tmp_path_factory.mktemp("s3")) as running:
        yield running


@pytest.fixture
def s3(server: S3Server) -> Iterator[S3Server]:
    with environment(server.env):
        yield server


@settings(max_examples=1500, deadline=None, suppress_health_check=list(HealthCheck))
@given(tree=trees())
def test_a_folder_its_archives_and_its_prefix_read_alike(tree: Tree, s3: S3Server) -> None:
    compare(tree, s3)


def test_a_zip_of_300000_empty_members_is_read_in_seconds(tmp_path: Path) -> None:
    data = empty_zip(300_000)
    start = time.process_time()
    assert sum(1 for _ in members(io.BytesIO(data), len(data), "x.zip", Limits())) == 300_000
    assert time.process_time() - start < 30
