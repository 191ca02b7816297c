"""The working copies of jobs whose results root is behind a URL: what they take, and what may go.

A job runs in a folder of this machine, which is copied behind the URL as it changes. The folder
stays when the job has ended: who asks here for its state, its metrics or its model is answered
without the store. It is spare once the job is COMPLETE and all of it is behind the URL.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
import uuid
from pathlib import Path

from mae_skill.errors import MaeError

from mae_sdk.jobs import records, sync
from mae_sdk.jobs.records import JobRecord
from mae_sdk.jobs.root import working_copies

KEPT_SECONDS = 86_400.0
"""How long a spare copy stays. The end of every job with a remote results root removes older ones
of its machine."""


def used_bytes() -> int:
    """What all working copies take."""
    return sum(_bytes(folder) for root in _inside(working_copies()) for folder in _inside(root))


def clear(older_than: float = 0.0, root: Path | None = None) -> int:
    """Remove the copies that are spare; the bytes freed.

    A copy stays while a job that has not come to its end took its model, and a trial's while its
    study's does. What the store does not confirm stays too.

    Args:
        older_than: only those whose job ended so many seconds ago.
        root: the folder of a results root; None: of all.
    """
    roots = _inside(working_copies()) if root is None else [root]
    folders = [folder for one in roots for folder in _inside(one)]
    known = {folder: record for folder in folders if (record := _record(folder)) is not None}
    held = {
        folder.parent / str(record.get("parent") or "").partition(".")[0]
        for folder, record in known.items()
        if records.last_attempt(record)["state"] != records.COMPLETE
    }
    freed = 0
    # A study goes before its trials.
    for folder, record in sorted(known.items(), key=lambda row: (row[0].parent, row[0].name)):
        study = folder.with_name(folder.name.partition(".")[0])
        if study in held or (study != folder and study.exists()):
            continue
        if _is_spare(folder, record, older_than):
            freed += _remove(folder)
    return freed


def _inside(folder: Path) -> list[Path]:
    with contextlib.suppress(OSError):
        return sorted(
            path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")
        )
    return []


def _record(folder: Path) -> JobRecord | None:
    with contextlib.suppress(MaeError, OSError):
        return records.read_record(folder)
    return None


def _is_spare(folder: Path, record: JobRecord, older_than: float) -> bool:
    url = record["launch"].get("remote")
    if not url or records.last_attempt(record)["state"] != records.COMPLETE:
        return False
    with contextlib.suppress(MaeError, OSError, ValueError):
        age = time.time() - (folder / records.RECORD_NAME).stat().st_mtime
        return age >= older_than and sync.is_whole(folder, url)
    return False


def _remove(folder: Path) -> int:
    """Take a folder away, at once for whoever looks for it."""
    size = _bytes(folder)
    gone = folder.with_name(f".gone-{uuid.uuid4().hex}")
    try:
        folder.rename(gone)
    except OSError:
        return 0
    shutil.rmtree(gone, ignore_errors=True)
    return size


def _bytes(folder: Path) -> int:
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += (Path(place) / name).lstat().st_size
    return total
