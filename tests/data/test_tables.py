"""Pictures in Parquet and in the Arrow files that `datasets` saves."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from mae_sdk import Skill
from mae_sdk.data import inspect_source, open_source
from mae_skill.errors import DataError, DependencyError
from pyarrow import parquet

from tests.data.test_shards import facts, png
from tests.support.s3 import S3Server

NAMES = ["dog", "cat", "ant"]


def table(count: int, start: int = 0) -> Any:
    """As `datasets` writes one: the order of the classes is its own."""
    rows = range(start, start + count)
    features = {
        "image": {"_type": "Image"},
        "label": {"_type": "ClassLabel", "names": NAMES},
    }
    pictures = [{"bytes": png(i), "path": f"{i}.png" if i % 2 else None} for i in rows]
    found = pyarrow.table({"image": pictures, "label": [i % 3 for i in rows]})
    said = json.dumps({"info": {"features": features}})
    return found.replace_schema_metadata({"huggingface": said})


def save_arrow(found: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with pyarrow.OSFile(str(path), "wb") as out, pyarrow.ipc.new_stream(out, found.schema) as made:
        made.write_table(found)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i in range(9):
        path = tmp_path / "folder" / NAMES[i % 3] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(i))
    return tmp_path / "folder"


def test_a_table_reads_as_the_same_pictures_in_folders(
    folder: Path, s3: S3Server, tmp_path: Path
) -> None:
    want = facts(folder, tmp_path / "cache")
    saved, hub, bucket = tmp_path / "saved", tmp_path / "hub" / "data", s3.bucket("tables")
    for shard in range(2):
        part = table(5 - shard, 5 * shard)
        save_arrow(part, saved / f"data-{shard:05}-of-00002.arrow")
        hub.mkdir(parents=True, exist_ok=True)
        parquet.write_table(part, hub / f"train-{shard:05}-of-00002.parquet")
    for name in ("dataset_info.json", "state.json"):
        (saved / name).write_text("{}")
    (saved / "cache-1a2b.arrow").write_bytes(b"what datasets computes again")
    shutil.copytree(tmp_path / "hub", bucket / "hub", dirs_exist_ok=True)
    places = [
        *(f"{saved}", f"{hub.parent}", f"{hub}/train-*.parquet"),
        *("s3://tables/hub", "s3://tables/hub/data/*.parquet"),
    ]
    for place in places:
        assert facts(place, tmp_path / "cache") == want, place
    source = open_source(f"{hub}", cache_dir=tmp_path / "cache")
    assert source.labels_from == {"table": 9}
    assert source.path(8) == f"{hub}/train-00001-of-00002.parquet/00000003.png"


def test_columns_are_found_by_their_kinds_and_names_where_nothing_describes_them(
    tmp_path: Path,
) -> None:
    columns = {"id": ["a", "b"], "jpg": [png(0), png(1)], "category": ["x", None]}
    parquet.write_table(pyarrow.table(columns), tmp_path / "t.parquet")
    source = open_source(tmp_path / "t.parquet", tmp_path / "cache")
    assert (source.classes, source.labels.tolist()) == (["x"], [0, -1])
    assert source.read(1) == png(1)
    one_part = columns | {"split": ["train", "train"]}
    parquet.write_table(pyarrow.table(one_part), tmp_path / "one.parquet")
    assert len(open_source(tmp_path / "one.parquet", tmp_path / "cache")) == 2
    bare = pyarrow.table({"img": [{"bytes": png(0), "path": None}]})
    parquet.write_table(bare, tmp_path / "bare.parquet")
    assert open_source(tmp_path / "bare.parquet", tmp_path / "cache").classes == []


def test_a_table_that_cannot_be_used_is_one_error(tmp_path: Path) -> None:
    made: dict[str, Any] = {
        "no column of pictures": {"path": ["a.png"], "label": ["x"]},
        "several columns of pictures": {"a": [png(0)], "b": [png(1)]},
        "rows of .* are of several parts of a data set": {
            "image": [png(0), png(1)],
            "Split": ["train", "test2017"],
        },
        "names a picture and does not hold it": {"image": [{"bytes": None, "path": "/x/1.png"}]},
    }
    for says, columns in made.items():
        parquet.write_table(pyarrow.table(columns), tmp_path / "t.parquet")
        with pytest.raises(DataError, match=says) as caught:
            open_source(tmp_path / "t.parquet", tmp_path / "cache")
        assert "t.parquet" in caught.value.message and caught.value.expected
    for name in ("t.parquet", "t.arrow"):
        (tmp_path / name).write_bytes(b"PAR1 but no more")
        with pytest.raises(DataError, match="cannot be read as a table"):
            open_source(tmp_path / name, tmp_path / "cache")
    for split in ("train", "test"):
        save_arrow(table(2), tmp_path / "dict" / split / "data-00000-of-00001.arrow")
    with pytest.raises(DataError, match="several parts of a data set") as caught:
        open_source(tmp_path / "dict", tmp_path / "cache")
    assert caught.value.hint == f"name the one you mean: {tmp_path}/dict/test"
    assert len(open_source(tmp_path / "dict" / "train", tmp_path / "cache")) == 2


def test_without_pyarrow_the_error_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parquet.write_table(table(2), tmp_path / "t.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DependencyError) as caught:
        open_source(tmp_path / "t.parquet", tmp_path / "cache")
    assert caught.value.hint == "pip install 'mae-skill[parquet]'"


def test_columns_that_are_not_read_are_named_where_none_is_known_for_the_classes(
    tmp_path: Path,
) -> None:
    rows: dict[str, Any] = {"image": [png(i) for i in range(4)], "diagnosis": list("abab")}
    rows["width"], rows["score"] = [8] * 4, [0.5] * 4
    parquet.write_table(pyarrow.table(rows), tmp_path / "a.parquet")
    (left,) = open_source(str(tmp_path / "a.parquet")).left_out
    assert left.to_dict()["columns"] == {"count": 2, "files": ["diagnosis", "width"]}
    plan = Skill().plan(
        "train",
        train_datasets=str(tmp_path / "a.parquet"),
        spec_overrides={"train.stage": "pretrain"},
    )
    assert any("diagnosis, width are not read" in str(warning) for warning in plan.warnings)

    parquet.write_table(pyarrow.table({**rows, "label": list("abab")}), tmp_path / "b.parquet")
    source = open_source(str(tmp_path / "b.parquet"))
    assert source.classes == ["a", "b"] and "columns" not in source.left_out[0].to_dict()


def test_a_second_column_of_classes_is_named(tmp_path: Path) -> None:
    columns = {
        "image": [{"bytes": png(i)} for i in range(8)],
        "fine_label": [i % 4 for i in range(8)],
        "coarse_label": [i % 2 for i in range(8)],
        "width": [12] * 8,
    }
    file = tmp_path / "t.parquet"
    parquet.write_table(pyarrow.table(columns), file)
    report = inspect_source(file, cache_dir=tmp_path / "c")
    assert list(report["classes"]) == ["0", "1", "2", "3"]
    said = "the column fine_label is read as the classes, and coarse_label not"
    assert said in str(report["verdict"]["warnings"])

    columns = {"image": columns["image"], "label": columns["coarse_label"]}
    parquet.write_table(pyarrow.table(columns), file)
    report = inspect_source(file, cache_dir=tmp_path / "d")
    assert "of the table of pictures" not in str(report["verdict"]["warnings"])
