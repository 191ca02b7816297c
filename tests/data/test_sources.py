"""Every kind of source gives the same images, classes and labels."""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mae_sdk import Skill
from mae_sdk.data import cache, fetch, inspect_source, open_source
from mae_skill.errors import DataError, DependencyError, NotFoundError, StorageError

from tests.support.images import make_tarball, write_flat, write_imagefolder
from tests.support.s3 import SECRET_KEY, S3Server

FORMATS = ["tar", "tar.gz", "TGZ", "tar.zst", "tar.xz", "Tar.Bz2", "zip"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_imagefolder(tmp_path_factory.mktemp("images"), 3, 4)


def contents(source) -> list[bytes]:  # type: ignore[no-untyped-def]
    return [source.read(i) for i in range(len(source))]


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("remote", [False, True])
def test_an_archive_equals_its_folder_locally_and_on_s3(
    kind: str, remote: bool, folder: Path, s3: S3Server, tmp_path: Path
) -> None:
    bucket = s3.bucket("sources")
    made = make_tarball(folder, bucket / f"a.{kind}", wrapper="wrapped")
    source = open_source(f"s3://sources/a.{kind}" if remote else made, cache_dir=tmp_path)
    plain = open_source(folder)
    assert contents(source) == contents(plain)
    assert source.classes == plain.classes == ["0", "1", "2"]
    assert source.labels.tolist() == plain.labels.tolist()
    assert [name.removeprefix("wrapped/") for name in source.members] == list(plain.members)


def test_a_prefix_of_loose_objects_is_a_source(folder: Path, s3: S3Server, tmp_path: Path) -> None:
    shutil.copytree(folder, s3.bucket("sources") / "loose", dirs_exist_ok=True)
    source = open_source("s3://sources/loose/", cache_dir=tmp_path)
    assert contents(source) == contents(open_source(folder))
    assert source.classes == ["0", "1", "2"]


def test_of_a_prefix_only_the_images_are_fetched_and_large_ones_in_parts(
    folder: Path, s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.support.proxy import FaultProxy
    from tests.support.s3 import environment

    monkeypatch.setattr(fetch, "OBJECT_WINDOW", 200_000)
    monkeypatch.setattr(fetch.RangedFile.__init__, "__defaults__", (1 << 16, 4))
    place = s3.bucket("sources") / "mixed"
    shutil.copytree(folder, place)
    (place / "labels.json").write_text("{}")
    (place / "old.tar.gz").write_bytes(os.urandom(300_000))
    large = os.urandom(250_000)
    (place / "1" / "large.jpg").write_bytes(large)
    with FaultProxy(s3.endpoint) as proxy, environment({"AWS_ENDPOINT_URL": proxy.endpoint}):
        source = open_source("s3://sources/mixed", cache_dir=tmp_path)
        asked = [path for method, path in proxy.requests if method == "GET"]
    assert not any("old.tar.gz" in path or "labels.json" in path for path in asked)
    assert sum("large.jpg" in path for path in asked) == 4  # blocks of 64 KiB
    assert contents(source) == sorted(
        [*contents(open_source(folder)), large], key=contents(source).index
    )
    assert source.read(list(source.members).index("1/large.jpg")) == large
    out = cache.extracted_folder(
        "s3://sources/mixed", tmp_path
    )  # consumers of a folder get everything
    assert (out / "labels.json").read_text() == "{}" and (
        out / "1" / "large.jpg"
    ).read_bytes() == large
    (place / "only").mkdir()
    (place / "only" / "a.txt").write_text("x")
    with pytest.raises(DataError, match="holds no images"):
        open_source("s3://sources/mixed/only", cache_dir=tmp_path)


def test_an_s3_key_that_climbs_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.store.clear()
    memory.pipe_file("/evil/ok.jpg", b"x")
    store = memory.store
    store["/evil/../../outside.jpg"] = store["/evil/ok.jpg"]
    with pytest.raises(DataError, match=r"climbs with '\.\.'"):
        open_source("memory://evil", cache_dir=tmp_path / "cache")
    assert list(tmp_path.iterdir()) == []


def test_all_nine_extensions_count_in_any_case_and_hidden_things_do_not(tmp_path: Path) -> None:
    names = [
        "a.jpg",
        "b.JPEG",
        "c.Png",
        "d.ppm",
        "e.bmp",
        "f.PGM",
        "g.tif",
        "h.TIFF",
        "sub/deeper/i.webp",
    ]
    for name in [
        *names,
        ".hidden/x.jpg",
        "._a.jpg",
        "__MACOSX/a.jpg",
        "notes.txt",
        "sub/.DS_Store",
    ]:
        (tmp_path / "f" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "f" / name).write_bytes(b"x")
    assert list(open_source(tmp_path / "f").members) == names
    packed = make_tarball(tmp_path / "f", tmp_path / "f.tar")
    assert list(open_source(packed, cache_dir=tmp_path / "cache").members) == names


def test_flat_pictures_are_unlabeled_and_a_known_class_is_not_taken_for_a_wrapper(
    tmp_path: Path,
) -> None:
    flat = open_source(write_flat(tmp_path / "flat", 3))
    assert flat.classes == [] and flat.labels.tolist() == [-1, -1, -1]
    write_flat(tmp_path / "val" / "cat", 2)
    val = open_source(tmp_path / "val")
    assert val.classes == []
    assert val.label(["bird", "cat", "dog"])[1].tolist() == [1, 1]


def test_a_class_that_training_did_not_have_is_named(tmp_path: Path) -> None:
    write_flat(tmp_path / "val" / "cat", 1)
    write_flat(tmp_path / "val" / "unicorn", 1)
    with pytest.raises(DataError, match="unicorn"):
        open_source(tmp_path / "val").label(["cat", "dog"])


def test_a_list_of_sources_is_one_source_with_one_class_list(folder: Path, tmp_path: Path) -> None:
    write_flat(tmp_path / "more" / "1", 2, suffix=".png")
    write_flat(tmp_path / "more" / "9", 1, suffix=".png")
    both = open_source([str(folder), str(tmp_path / "more")])
    assert both.classes == ["0", "1", "2", "9"]
    assert both.labels.tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 1, 1, 3]
    assert both.path(14) == str(tmp_path / "more" / "9" / "00000.png")


@pytest.mark.parametrize("empty", ["", [], [""], "  "])
def test_an_empty_source_is_an_error_and_never_everything(empty: object) -> None:
    with pytest.raises(DataError, match="empty"):
        open_source(empty)  # type: ignore[arg-type]


def test_missing_and_imageless_sources_say_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no data source"):
        open_source(tmp_path / "nowhere")
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("x")
    with pytest.raises(DataError, match="holds no images"):
        open_source(tmp_path / "text")
    with pytest.raises(DataError, match="neither a folder nor an archive"):
        open_source(tmp_path / "text" / "a.txt")


def _child(source, queue) -> None:  # type: ignore[no-untyped-def]
    queue.put(contents(source))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_source_works_in_forked_and_spawned_processes(
    method: str, folder: Path, tmp_path: Path
) -> None:
    source = open_source(make_tarball(folder, tmp_path / "a.tar.gz"), cache_dir=tmp_path / "cache")
    if (
        method == "spawn"
    ):  # what a spawned worker gets is a pickle; a whole interpreter adds seconds and nothing else
        assert contents(pickle.loads(pickle.dumps(source))) == contents(source)
        return
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    workers = [context.Process(target=_child, args=(source, queue)) for _ in range(3)]
    for worker in workers:
        worker.start()
    got = [queue.get(timeout=30) for _ in workers]
    for worker in workers:
        worker.join()
    assert all(one == contents(source) for one in got)


def test_the_digest_depends_on_content_and_not_on_packing(folder: Path, tmp_path: Path) -> None:
    one = open_source(make_tarball(folder, tmp_path / "a.tar.gz"), cache_dir=tmp_path / "cache")
    two = open_source(make_tarball(folder, tmp_path / "b.zip"), cache_dir=tmp_path / "cache")
    assert one.digest == two.digest
    shutil.copytree(folder, tmp_path / "changed")
    picture = tmp_path / "changed" / "0" / "0000.png"
    picture.write_bytes(picture.read_bytes()[:-1] + b"!")
    assert (
        open_source(
            make_tarball(tmp_path / "changed", tmp_path / "c.tar"), cache_dir=tmp_path / "cache"
        ).digest
        != one.digest
    )


def test_an_extracted_folder_holds_every_file(folder: Path, tmp_path: Path) -> None:
    made = make_tarball(folder, tmp_path / "a.tar.zst")
    out = cache.extracted_folder(str(made), tmp_path / "cache")
    assert {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*.png")} == {
        str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*.png")
    }
    assert cache.extracted_folder(str(made), tmp_path / "cache") == out


def test_no_secret_is_written_to_the_cache(s3: S3Server, folder: Path, tmp_path: Path) -> None:
    make_tarball(folder, s3.bucket("sources") / "secret.tar")
    open_source("s3://sources/secret.tar", cache_dir=tmp_path)
    assert not any(
        SECRET_KEY.encode() in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()
    )


def test_a_local_source_loads_neither_s3fs_nor_fsspec(folder: Path, tmp_path: Path) -> None:
    make_tarball(folder, tmp_path / "a.tar.gz")
    code = (
        "import sys; from mae_sdk.data import open_source; import mae_sdk.data.inspect\n"
        f"s = open_source({str(tmp_path / 'a.tar.gz')!r}, cache_dir={str(tmp_path / 'cache')!r})\n"
        "s.read(0)\n"
        "bad = {'s3fs', 'fsspec', 'aiobotocore', 'torch', 'cv2'} & set(sys.modules)\n"
        "assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_missing_driver_is_named(tmp_path: Path) -> None:
    pytest.importorskip("fsspec")
    if importlib.util.find_spec("gcsfs"):
        pytest.skip("gcsfs is installed")
    with pytest.raises(DependencyError, match="the extra gs"):
        open_source("gs://bucket/never-asked.tar", cache_dir=tmp_path)


def test_labels_of_many_classes_follow_the_sorted_order(tmp_path: Path) -> None:
    for i in range(120):
        (tmp_path / f"c{i}").mkdir()
        (tmp_path / f"c{i}" / "x.png").write_bytes(b"x")
    source = open_source(tmp_path)
    assert source.classes == sorted(f"c{i}" for i in range(120))
    assert np.array_equal(source.labels, np.arange(120))


def test_a_folder_that_holds_an_archive_and_no_image_says_which_to_name(tmp_path: Path) -> None:
    make_tarball(
        write_imagefolder(tmp_path / "pictures", classes=2, per_class=1),
        tmp_path / "data" / "images_train.tar.gz",
    )
    with pytest.raises(DataError) as caught:
        open_source(str(tmp_path / "data"))
    archive = tmp_path / "data" / "images_train.tar.gz"
    assert caught.value.hint == f"name the archive itself: {archive}"


def test_a_folder_that_goes_while_it_is_read_is_left_out_and_one_that_may_not_be_read_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mae_sdk.data import walk

    for name in ("a", "b"):
        write_imagefolder(tmp_path / "set" / name, classes=1, per_class=1)
    real = os.scandir

    def scandir(path: Path, error: type[OSError]) -> Any:
        if Path(path).name == "b":
            raise error(13, "no", str(path))
        return real(path)

    monkeypatch.setattr(walk.os, "scandir", lambda path: scandir(path, FileNotFoundError))
    assert len(walk.walk(tmp_path / "set").files) == 1
    monkeypatch.setattr(walk.os, "scandir", lambda path: scandir(path, PermissionError))
    with pytest.raises(StorageError):
        walk.walk(tmp_path / "set")


def test_one_picture_is_a_source_of_answers_and_of_no_training(tmp_path: Path) -> None:
    folder = write_imagefolder(tmp_path / "raw", classes=1, per_class=3) / "0"
    picture = folder / "a picture [1].png"
    shutil.copy(next(folder.iterdir()), picture)

    one = open_source(str(picture))
    assert list(one.members) == [picture.name] and one.read(0) == picture.read_bytes()
    assert one.path(0) == str(picture) and not one.left_out[0].suffixes
    both = open_source([str(folder), str(picture)])
    assert len(both) == 5 and both.path(4) == str(picture)

    assert inspect_source(str(picture))["images"] == 1

    asked = {"inference.checkpoint": "x.pth"}
    with pytest.raises(NotFoundError) as alone:  # of the checkpoint: the picture is no error
        Skill().plan("inference", inference_dataset=str(picture), spec_overrides=asked)
    assert alone.value.field == "inference.checkpoint"
    with pytest.raises(DataError, match="one picture, not a place of images") as caught:
        Skill().plan("train", train_datasets=str(picture))
    assert str(folder) in str(caught.value.hint)
