"""Patterns of names as sources: pictures, archives and folders, here and on S3."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from mae_sdk import Skill
from mae_sdk.cli.main import main
from mae_sdk.data import open_pairs, open_source
from mae_sdk.data.patterns import MOST, expand
from mae_skill.errors import DataError

from tests.support.images import make_tarball, write_flat, write_imagefolder
from tests.support.s3 import S3Server
from tests.support.web import serving


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of three pictures, with a text beside them."""
    root = write_imagefolder(tmp_path_factory.mktemp("patterns") / "set", 2, 3)
    (root / "0" / "notes.txt").write_text("x")
    (root / ".hidden").mkdir()
    shutil.copy(root / "0" / "0000.png", root / ".hidden" / "0000.png")
    return root


@pytest.fixture
def place(
    request: pytest.FixtureRequest, folder: Path, s3: S3Server, tmp_path: Path
) -> tuple[str, Path]:
    """Where the same files are, here or on S3, and a cache."""
    root = tmp_path if request.param == "local" else s3.bucket(f"patterns-{os.getpid()}")
    shutil.copytree(folder, root / "set", dirs_exist_ok=True)
    for number in range(3):
        write_imagefolder(root.parent / "one", 2, 1, start=number)
        make_tarball(root.parent / "one", root / "shards" / f"part-{number:03}.tar")
        shutil.rmtree(root.parent / "one")
    uri = str(root) if request.param == "local" else f"s3://{root.name}"
    return uri, tmp_path / "cache"


PICTURES = ["0/0000.png", "0/0001.png", "0/0002.png", "1/0000.png", "1/0001.png", "1/0002.png"]


@pytest.mark.parametrize("place", ["local", "s3"], indirect=True)
def test_a_pattern_of_pictures_is_one_source_below_its_fixed_folder(
    place: tuple[str, Path],
) -> None:
    uri, cache = place
    for text, want in [
        ("set/**/*.png", PICTURES),
        ("set/**", PICTURES),
        ("set/*/*.{png,jpg}", PICTURES),
        ("set/{0,1}/000[01].png", [name for name in PICTURES if "0002" not in name]),
        ("set/?/*2.png", ["0/0002.png", "1/0002.png"]),
    ]:
        source = open_source(f"{uri}/{text}", cache_dir=cache)
        assert list(source.members) == want, text
        assert source.classes == ["0", "1"]
        assert source.path(0) == f"{uri}/set/{want[0]}"
        assert source.left_out[0].to_dict() == {}
    whole = open_source(f"{uri}/set", cache_dir=cache)
    chosen = open_source(f"{uri}/set/**/*1.png", cache_dir=cache)
    assert chosen.read(1) == whole.read(4)
    assert chosen.digest != whole.digest


@pytest.mark.parametrize("place", ["local", "s3"], indirect=True)
def test_a_pattern_of_archives_or_folders_is_the_list_of_them(place: tuple[str, Path]) -> None:
    uri, cache = place
    shards = [f"{uri}/shards/part-{number:03}.tar" for number in range(3)]
    assert expand(f"{uri}/shards/*.tar") == shards
    assert expand(f"{uri}/shards/part-{{000..002}}.tar") == shards
    assert expand(f"{uri}/**/*.tar") == shards
    assert expand(f"{uri}/set/[01]") == [f"{uri}/set/0", f"{uri}/set/1"]
    one = open_source(shards, cache_dir=cache)
    two = open_source(f"{uri}/shards/part-*", cache_dir=cache)
    assert two.digest == one.digest and len(two) == 6 and two.classes == ["0", "1"]
    with pytest.raises(DataError, match=r"no data source at .*part-003\.tar"):
        open_source(f"{uri}/shards/part-{{000..003}}.tar", cache_dir=cache)


@pytest.mark.parametrize("place", ["local", "s3"], indirect=True)
def test_what_matches_nothing_or_several_kinds_is_an_error_that_says_what_is_there(
    place: tuple[str, Path],
) -> None:
    uri, cache = place
    with pytest.raises(DataError, match="nothing matches") as caught:
        open_source(f"{uri}/*.zip", cache_dir=cache)
    assert "set/, shards/" in str(caught.value.hint)
    with pytest.raises(DataError) as caught:
        open_source(f"{uri}/set/*/*.txt", cache_dir=cache)
    assert caught.value.hint == "it matches files that are no pictures: notes.txt"
    with pytest.raises(DataError, match="several kinds"):
        open_source(f"{uri}/**", cache_dir=cache)
    with pytest.raises(DataError, match="whole folders"):
        open_source(f"{uri}/set**/*.tar", cache_dir=cache)
    with pytest.raises(DataError, match=f"more than {MOST:,} names"):
        expand(f"{uri}/{{0..999}}{{0..999}}.tar")


def test_a_name_that_is_there_is_no_pattern(tmp_path: Path) -> None:
    odd = write_flat(tmp_path / "set[1]{a,b}*", 2)
    assert expand(str(odd)) == [str(odd)]
    assert len(open_source(odd)) == 2
    assert list(open_source(f"{odd}/*1.jpg").members) == ["00001.jpg"]


def test_folders_that_are_linked_into_themselves_end_a_pattern(
    folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(folder, tmp_path / "set")
    for name in ("a", "b"):
        (tmp_path / "set" / name).symlink_to(tmp_path / "set")
    assert len(open_source(f"{tmp_path}/set/**/*1.png")) == 2
    assert expand(f"{tmp_path}/set/**") == [f"{tmp_path}/set/**"]


def test_of_a_web_server_braces_alone_are_read(folder: Path, tmp_path: Path) -> None:
    tar = make_tarball(folder, tmp_path / "a.tar").read_bytes()
    with serving() as web:
        web.files = {"/a-1.tar": tar, "/a-2.tar": tar}
        base = f"http://127.0.0.1:{web.server_port}"
        assert len(open_source(f"{base}/a-{{1..2}}.tar", cache_dir=tmp_path / "c")) == 12
        with pytest.raises(DataError) as caught:
            open_source(f"{base}/{{1,2}}.png", cache_dir=tmp_path / "c")
        assert "web server" in str(caught.value.hint)


def test_images_and_masks_of_two_patterns_belong_together(tmp_path: Path) -> None:
    write_flat(tmp_path / "in", 3)
    write_flat(tmp_path / "out", 3, suffix=".png")
    pairs = open_pairs(f"{tmp_path}/in/*.jpg", f"{tmp_path}/out/*.png", role="train")
    assert (len(pairs), pairs.masked) == (3, 3)
    for number in range(2):
        make_tarball(tmp_path / "in", tmp_path / f"in-{number}.tar")
        make_tarball(tmp_path / "out", tmp_path / f"out-{number}.tar")
    pairs = open_pairs(f"{tmp_path}/in-*.tar", f"{tmp_path}/out-{{0..1}}.tar", role="train")
    assert (len(pairs), pairs.masked) == (6, 6)


def mae(*words: str) -> int:
    """The command line in this process; its exit code."""
    with pytest.raises(SystemExit) as left:
        main(words)
    return int(left.value.code or 0)


def test_plan_inspect_and_get_spec_take_a_pattern_as_the_run_does(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pattern = f"{folder}/**/*[01].png"
    assert mae("inspect", pattern) == 0
    assert "images  4" in capsys.readouterr().out
    made = Skill().plan(
        "train",
        train_datasets=[pattern, f"{folder}/*/*2.png"],
        eval_dataset=pattern,
        spec_overrides={"train.stage": "finetune", "model.num_classes": 2},
        automl_policy="off",
    )
    seen = made.sources["dataset.train_data_sources"]
    assert (seen["images"], seen["classes"]) == (6, 2)
    assert made.sources["dataset.val_data_sources"]["images"] == 4
    assert mae("get-spec", "train", "--recipe", "auto", "--train-datasets", pattern) == 0
    assert pattern in capsys.readouterr().out
    assert mae("inspect", f"{folder}/*.png") == DataError.exit_code
    assert "nothing matches" in capsys.readouterr().err
