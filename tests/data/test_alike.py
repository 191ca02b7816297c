"""A folder, its archives and its prefix give the same samples, classes and refusals."""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mae_sdk.data import open_source
from mae_skill.errors import MaeError
from mae_skill.spelling import original, spelled

from tests.support.s3 import S3Server
from tests.support.trees import Tree, is_text, trees, write_archives, write_folder


def reading(uri: str | Path, cache: Path) -> Any:
    """What a source gives, or how it is refused."""
    try:
        source = open_source(uri, cache_dir=cache)
        classes, labels = source.label()
    except MaeError as error:
        return type(error), error.message.replace(str(uri), "SOURCE")
    names = list(source.members)
    assert [original(source.path(i)) for i in range(len(source))] == [
        f"{uri}/{name}" for name in names
    ]
    return names, classes, labels.tolist(), [source.read(i) for i in range(len(source))]


def compare(tree: Tree, server: S3Server | None) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        want = reading(write_folder(tree, root / "files"), root / "cache")
        for archive in write_archives(tree, root):
            assert reading(archive, root / "cache") == want, archive.name
        if server is not None and is_text(tree):
            name = f"alike/{uuid.uuid4().hex}"
            place = write_folder(tree, server.bucket("alike") / name.split("/")[1], copies=True)
            assert reading(f"s3://{name}", root / "cache") == want
            shutil.rmtree(place)


@settings(
    max_examples=20,
    derandomize=True,  # the wide search is in tests/long/data
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(tree=trees())
def test_a_folder_its_archives_and_its_prefix_read_alike(tree: Tree, s3: S3Server) -> None:
    compare(tree, s3)


@given(st.binary(max_size=20))
def test_any_bytes_of_a_name_come_back_from_how_they_are_spelled(name: bytes) -> None:
    text = spelled(os.fsdecode(name))
    text.encode()
    assert os.fsencode(original(text)) == name
