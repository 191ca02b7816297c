"""Files that appear whole or not at all, locks that end with their process, one folder for all
caches."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from mae_sdk import files
from mae_sdk.data import cache
from mae_sdk.jobs.root import Root
from mae_sdk.plan.inferred_fields import InferenceContext, apply
from mae_sdk.run.devices import CoreShare, Reservation
from mae_sdk.storage import transfer

from tests.support.images import make_tarball, write_imagefolder
from tests.support.locks import held_by_another


def test_a_write_that_fails_leaves_the_old_content_and_no_other_file(tmp_path: Path) -> None:
    target = tmp_path / "a"
    target.write_bytes(b"old")
    with pytest.raises(RuntimeError), files.atomic_file(target) as temporary:
        temporary.write_bytes(b"half")
        raise RuntimeError
    with pytest.raises(ValueError, match="JSON"):
        files.write_json(target, {"loss": float("nan")})
    assert target.read_bytes() == b"old" and list(tmp_path.iterdir()) == [target]


def test_a_folder_that_fails_leaves_the_old_one_and_no_other(tmp_path: Path) -> None:
    target = tmp_path / "run"
    with files.atomic_folder(target) as temporary:
        (temporary / "a").write_text("old")
        assert not target.exists()
    with pytest.raises(RuntimeError), files.atomic_folder(target, replace=True) as temporary:
        (temporary / "a").write_text("half")
        raise RuntimeError
    with pytest.raises(OSError, match="not empty"), files.atomic_folder(target) as temporary:
        (temporary / "a").write_text("new")
    assert (target / "a").read_text() == "old" and list(tmp_path.iterdir()) == [target]

    with files.atomic_folder(target, replace=True) as temporary:
        (temporary / "b").write_text("new")
    assert [path.name for path in target.iterdir()] == ["b"]


KILLED = """
import os, signal, sys
from pathlib import Path
from mae_sdk import files
here = Path(sys.argv[1])
with (
    files.temporary_folder("mae-work-", here) as folder,
    files.atomic_folder(here / "run") as run,
    files.atomic_file(here / "result") as result,
):
    for path in (folder / "a", run / "a", result):
        path.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_left_goes_with_the_next_and_what_is_in_use_stays(
    tmp_path: Path,
) -> None:
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)])
    left = set(tmp_path.iterdir())
    assert len(left) == 3 and not {tmp_path / "run", tmp_path / "result"} & left
    with files.temporary_folder("mae-work-", tmp_path) as mine:
        assert len([path for path in tmp_path.iterdir() if path.name.startswith("mae-work-")]) == 1
        with files.temporary_folder("mae-work-", tmp_path):
            assert mine.is_dir()
    with files.atomic_file(tmp_path / "other") as mine:
        assert set(files.remove_leftovers(tmp_path)) < left and mine.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def test_of_exclusive_writers_the_first_wins(tmp_path: Path) -> None:
    target = tmp_path / "a"
    for content in (b"first", b"second"):
        try:
            with files.atomic_file(target, exclusive=True) as temporary:
                temporary.write_bytes(content)
        except FileExistsError:
            assert content == b"second"
    assert target.read_bytes() == b"first" and list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize(
    ("umask", "shared", "private"),
    [(0o022, 0o644, 0o600), (0o002, 0o664, 0o600), (0o077, 0o600, 0o600)],
)
def test_the_umask_says_who_may_read_a_file(
    tmp_path: Path, umask: int, shared: int, private: int
) -> None:
    before = os.umask(umask)
    try:
        files.write_text(tmp_path / "a", "é\r\n")
        with files.atomic_file(tmp_path / "b", mode=0o600) as temporary:
            temporary.write_text("")
    finally:
        os.umask(before)
    modes = [(tmp_path / name).stat().st_mode & 0o777 for name in "ab"]
    assert modes == [shared, private]
    assert (tmp_path / "a").read_bytes() == "é\r\n".encode()


def test_a_lock_keeps_other_processes_out_and_ends_with_its_process(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "lock"
    with held_by_another(path):
        assert files.in_use(path)
        with pytest.raises(BlockingIOError), files.locked(path, wait=False):
            pass
    assert not files.in_use(path) and not files.in_use(tmp_path / "missing")
    with files.locked(path, wait=False), pytest.raises(BlockingIOError):
        files.lock(path, wait=False)


@pytest.mark.parametrize(
    ("variables", "home"),
    [
        ({"MAE_CACHE_DIR": "{}/mine", "XDG_CACHE_HOME": "{}/xdg"}, "mine"),
        ({"XDG_CACHE_HOME": "{}/xdg"}, "xdg/mae"),
        ({}, ".cache/mae"),
    ],
)
def test_all_five_caches_are_in_the_cache_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], home: str
) -> None:
    for name in ("MAE_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"HOME": "{}", **variables}.items():
        monkeypatch.setenv(name, value.format(tmp_path))
    images = write_imagefolder(tmp_path / "data" / "images", classes=1, per_class=2)
    archive = make_tarball(images, tmp_path / "data" / "a.tar.gz")
    transfer.write_bytes("memory://weights/w.pth", b"weights")

    entry = cache.pack_of(str(archive)).folder
    inferred = apply(
        "train",
        {"a.path": "ptm"},
        InferenceContext("train", None, "/out", ptm="memory://weights/w.pth"),
    )
    scratch = Root("memory://results").work_dir("job")
    devices = Reservation(["0"], 1)
    assert devices.wait(lambda: False, lambda: None) == ["0"]
    cores = CoreShare().join()
    places = [entry, Path(inferred[0].value), scratch, devices.folder / "0.lock", cores.path]
    devices.release()
    cores.release()

    root = tmp_path / home
    assert [path.relative_to(root).parts[0] for path in places] == [
        entry.name,
        "pretrained",
        "scratch",
        "devices",
        "cpu-jobs",
    ]
    assert [
        path for path in tmp_path.iterdir() if path.name not in ("data", home.split("/")[0])
    ] == []

    monkeypatch.setenv("MAE_SCRATCH", str(tmp_path / "elsewhere"))
    assert Root("memory://results").work_dir("job").is_relative_to(tmp_path / "elsewhere")


@pytest.mark.parametrize("make", ["file", "folder"])
def test_a_folder_in_which_nothing_can_be_made_is_an_error_and_no_endless_loop(
    make: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = []

    def refuse(*_: object, **__: object) -> int:
        tries.append(1)
        assert len(tries) < 100, "tried for ever"
        raise FileNotFoundError(2, "No such file or directory", str(tmp_path / "x"))

    monkeypatch.setattr(os, "open" if make == "file" else "mkdir", refuse)
    opened = files.atomic_file if make == "file" else files.atomic_folder
    with pytest.raises(FileNotFoundError), opened(tmp_path / "x"):
        pass
    assert 1 < len(tries) <= 20


def test_a_file_that_vanishes_each_time_it_is_made_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os.path, "lexists", lambda path: False)
    with pytest.raises(OSError, match="removed each time"), files.atomic_file(tmp_path / "x"):
        pass
