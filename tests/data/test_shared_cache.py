"""One cache for several users: what the umask lets them read is read, a stranger's is not."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mae_sdk.data import open_source

from tests.support.images import make_tarball, write_imagefolder

FIRST, SECOND = 64_001, 64_002
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be two users")


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder that every user may enter, with an archive in it."""
    root = Path(tempfile.mkdtemp(dir="/tmp"))
    root.chmod(0o755)
    make_tarball(write_imagefolder(root / "images", 2, 2), root / "a.tar.gz").chmod(0o644)
    (root / "cache").mkdir()
    yield root
    shutil.rmtree(root)


def as_user(user: int, does: Callable[[], object], umask: int = 0o022) -> None:
    """Run a function in a child process of another user; fails where it fails."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.umask(umask)
            os.setgroups([])
            os.setgid(64_000)
            os.setuid(user)
            does()
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def entries(root: Path) -> list[Path]:
    return [path for path in (root / "cache").iterdir() if not path.name.startswith(".")]


@pytest.mark.parametrize(("mode", "umask", "count"), [(0o777, 0o022, 2), (0o775, 0o002, 1)])
def test_a_second_user_reads_the_entry_where_the_folder_is_not_everybodys(
    shared: Path, mode: int, umask: int, count: int
) -> None:
    os.chown(shared / "cache", FIRST, 64_000)
    (shared / "cache").chmod(mode)

    def read() -> None:
        source = open_source(shared / "a.tar.gz", cache_dir=shared / "cache")
        assert len([source.read(i) for i in range(len(source))]) == 4

    as_user(FIRST, read, umask)
    as_user(SECOND, read, umask)
    as_user(SECOND, read, umask)
    assert len(entries(shared)) == count
    assert all(path.stat().st_mode & 0o777 == 0o777 & ~umask for path in entries(shared))


def test_an_entry_that_its_owner_keeps_private_is_made_again(shared: Path) -> None:
    (shared / "cache").chmod(0o777)

    def read() -> None:
        assert len(open_source(shared / "a.tar.gz", cache_dir=shared / "cache")) == 4

    as_user(FIRST, read, 0o077)
    as_user(SECOND, read, 0o022)
    assert len(entries(shared)) == 2
