"""WebDataset shards: pictures with files beside them that give their classes."""

from __future__ import annotations

import io
import json
import pickle
import tarfile
import tempfile
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mae_sdk.data import inspect_source, open_source
from mae_skill.errors import DataError
from PIL import Image

from tests.support.s3 import S3Server
from tests.support.training import read, spec, train


@lru_cache
def png(number: int) -> bytes:
    """A small picture that differs from all others."""
    picture, out = Image.new("RGB", (12, 12), (number % 256, number // 256, 9)), io.BytesIO()
    picture.putpixel((0, 0), (255, 255, 255))
    picture.save(out, "PNG")
    return out.getvalue()


def write_tar(path: Path, files: Mapping[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def sample(kind: str, number: int, name: str | None) -> dict[str, bytes]:
    """One sample of a shard; a class that is None is written nowhere."""
    key = f"{number:05}"
    found = {f"{key}.png": png(number)}
    if name is not None:
        more = {".json": json.dumps({"label": name, "width": 12}).encode()}
        found[key + kind] = more.get(kind, f"{name}\n".encode())
    return found


def facts(uri: str | Path, cache: Path) -> tuple[object, ...]:
    """What a source gives: class of each picture, counts, and the verdict on it."""
    source = open_source(uri, cache_dir=cache)
    names = [*source.classes, None]
    pictures = {source.read(i): names[label] for i, label in enumerate(source.labels.tolist())}
    report = inspect_source(uri, cache_dir=cache)
    kept = ("images", "classes", "unlabelled", "width", "formats", "mean", "std", "bytes")
    verdict = {
        key: [text for text in value if "class folder" not in text] if key != "usable" else value
        for key, value in report["verdict"].items()
    }
    return pictures, source.classes, {key: report[key] for key in kept}, verdict


@settings(max_examples=25, derandomize=True, deadline=None)
@given(
    classes=st.lists(st.integers(0, 3), min_size=2, max_size=12).filter(lambda x: len({*x}) > 1),
    kind=st.sampled_from([".cls", ".json", ".txt"]),
    shards=st.integers(1, 3),
    suffix=st.sampled_from([".tar", ".tar.gz"]),
)
def test_a_shard_reads_as_the_same_pictures_in_folders(
    classes: list[int], kind: str, shards: int, suffix: str
) -> None:
    names = ["cat", "dog", "10", "2"]
    with tempfile.TemporaryDirectory() as made:
        root = Path(made)
        for shard in range(shards):
            files: dict[str, bytes] = {}
            for number in range(shard, len(classes), shards):
                files |= sample(kind, number, names[classes[number]])
            if files:
                write_tar(root / "shards" / f"s-{shard}{suffix}", files)
        for number, chosen in enumerate(classes):
            path = root / "folder" / names[chosen] / f"{number:05}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(png(number))
        want = facts(root / "folder", root / "cache")
        assert facts(f"{root}/shards/s-*{suffix}", root / "cache") == want


def test_a_remote_shard_is_labeled_and_its_classes_are_known_ones(
    s3: S3Server, tmp_path: Path
) -> None:
    files = sample(".cls", 0, "7") | sample(".cls", 1, "3") | sample(".cls", 2, None)
    write_tar(s3.bucket("shards") / "a-000.tar", files)
    write_tar(s3.bucket("shards") / "a-001.tar", sample(".cls", 3, "7"))
    source = open_source("s3://shards/a-{000..001}.tar", cache_dir=tmp_path)
    assert source.classes == ["3", "7"]
    assert source.labels.tolist() == [1, 0, -1, 1]
    assert source.labels_from == {".cls": 3}
    again = pickle.loads(pickle.dumps(source))
    assert again.label(["7", "3", "1"])[1].tolist() == [0, 1, -1, 0]
    assert again.unknown_classes(["3"]) == {"7": 2}
    with pytest.raises(DataError, match="7"):
        source.label(["3"])


def test_what_is_beside_a_picture_and_gives_no_class_is_none(tmp_path: Path) -> None:
    captions = {k: v for i in range(12) for k, v in sample(".txt", i, f"a picture of {i}").items()}
    lists = {f"{i}.png": png(i) for i in range(2)} | {"0.json": b'{"boxes": []}', "1.json": b"["}
    foldered = {"a/0.png": png(0), "b/1.png": png(1), "a/0.json": b'{"label": "x"}'}
    for number, files in enumerate((captions, lists)):
        source = open_source(write_tar(tmp_path / f"{number}.tar", files), tmp_path / "cache")
        assert source.classes == [] and source.labels_from == {}
    source = open_source(write_tar(tmp_path / "f.tar", foldered), tmp_path / "cache")
    assert source.classes == ["a", "b"]
    broken = write_tar(tmp_path / "b.tar", {"0.png": png(0), "0.cls": b"\xff\xfe"})
    with pytest.raises(DataError, match=r"\.cls file holds no class") as caught:
        open_source(broken, tmp_path / "cache").label()
    assert "0.cls" in str(caught.value.got)


@pytest.mark.parametrize(
    ("other", "differ"),
    [
        ({"ant": "bee", "bee": "ant"}, 6),  # the same names
        ({"ant": "7", "bee": "9"}, 0),  # numbers of the names
        ({"ant": "indoors", "bee": "indoors"}, 0),  # of something else
    ],
)
@pytest.mark.parametrize("kind", [".json", "folders"])
def test_a_cls_that_another_class_contradicts_is_counted_and_named(
    other: dict[str, str], differ: int, kind: str, tmp_path: Path
) -> None:
    files: dict[str, bytes] = {}
    for number in range(6):
        name = ["ant", "bee"][number % 2]
        folder = f"{other[name]}/" if kind == "folders" else ""
        files[f"{folder}{number}.png"] = png(number)
        files[f"{folder}{number}.cls"] = name.encode()
        if kind == ".json":
            files[f"{number}.json"] = json.dumps({"label": other[name]}).encode()
    report = inspect_source(write_tar(tmp_path / "s.tar", files), cache_dir=tmp_path / "cache")
    assert report["classes"] == {"ant": 3, "bee": 3}
    says = f"{differ} images have another class by {kind} than by .cls, which is read"
    assert bool(differ) == any(says in text for text in report["verdict"]["warnings"])
    assert report.get("labels_differ", {}).get(kind, {}).get("count", 0) == differ


def test_one_json_of_many_that_numbers_a_picture_otherwise_is_named(tmp_path: Path) -> None:
    files: dict[str, bytes] = {}
    for number in range(6):
        files[f"{number}.png"], files[f"{number}.cls"] = png(number), b"%d" % (number % 2)
        name = ["ant", "bee"][number % 2 if number != 4 else 1]
        files[f"{number}.json"] = json.dumps({"label": name}).encode()
    source = open_source(write_tar(tmp_path / "s.tar", files), cache_dir=tmp_path / "cache")
    assert source.labels_differ()[".json"]["count"] == 1
    assert source.labels_differ()[".json"]["files"][0].endswith("/4.png")


def test_further_pictures_of_a_sample_are_left_out_and_counted(tmp_path: Path) -> None:
    files = {"a.png": png(0), "a.seg.png": png(1), "a.cls": b"x", "v1.2.png": png(2)}
    files |= {"v1.2.cls": b"y", "lost.cls": b"y"}
    source = open_source(write_tar(tmp_path / "s.tar", files), tmp_path / "cache")
    assert list(source.members) == ["a.png", "v1.2.png"]
    assert source.labels.tolist() == [0, 1]
    left = source.left_out[0].to_dict()
    assert left["pictures"]["files"] == ["a.seg.png"]
    assert left["other"]["files"] == ["lost.cls"]


def test_a_classifier_learns_from_shards(tmp_path: Path) -> None:
    for shard in range(2):
        files: dict[str, bytes] = {}
        for number in range(shard * 6, shard * 6 + 6):
            files |= sample(".cls", number, str(number % 2))
        write_tar(tmp_path / f"s-{shard:03}.tar", files)
    job = tmp_path / "job"
    uri = f"{tmp_path}/s-{{000..001}}.tar"
    made = spec(uri, job, "finetune", train__num_epochs=1, model__depth=1, model__num_classes=2)
    assert train(made) == 0
    seen = read(job, "train/result.json")["data"]["sources"]["dataset.train_data_sources"]
    assert (seen["images"], seen["classes"], seen["labels_from"]) == (12, 2, {".cls": 12})
