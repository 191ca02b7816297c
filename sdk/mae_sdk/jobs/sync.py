"""A job folder and its copy behind a URL: kept up to date, and brought back to resume elsewhere.

Checkpoints go before the index that names them, and the record goes last, so a reader never finds a
name without its file. There is one writer per job; `claim` decides who that is.
"""

from __future__ import annotations

import contextlib
import fnmatch
import json
import os
import shutil
import sys
import tempfile
import threading
import uuid
from pathlib import Path
from typing import Any

from mae_skill.errors import MaeError, StorageError

from mae_sdk import files
from mae_sdk.jobs import records
from mae_sdk.storage import transfer, urls

SYNC_NAME = "sync.json"
_INDEXES = ("checkpoints.json", "result.json")
_OWN = (records.RECORD_NAME, records.CANCEL_NAME, SYNC_NAME)
_GROWING = (".txt", ".json", ".jsonl", ".csv", ".log")


def claim(url: str, record: records.JobRecord) -> records.JobRecord | None:
    """Create the remote record of a job, once whoever else tries.

    Returns:
        None when this call created it, else the record that was there first.

    Raises:
        StorageError: the store failed.
    """
    target = urls.join(url, records.RECORD_NAME)
    # A request that is repeated after a lost answer finds its own claim there.
    record = {**record, "claim": uuid.uuid4().hex}
    data = json.dumps(record, indent=1, allow_nan=False).encode()
    try:
        transfer.write_bytes(target, data, if_none_match=True)
    except StorageError as error:
        if error.retryable or not transfer.exists(target):
            raise
        first: records.JobRecord = json.loads(transfer.read_bytes(target))
        return None if first.get("claim") == record["claim"] else first
    return None


class FolderSync:
    """Copies a job folder to a URL as it changes, in a thread of its own.

    Args:
        job_dir: the folder.
        url: where its copy is.
        seconds: between two rounds (``MAE_SYNC_SECONDS``, 5 s).

    A failure while the job runs is tried again in the next round; only `finish` raises.
    """

    def __init__(self, job_dir: Path, url: str, seconds: float | None = None) -> None:
        self.job_dir, self.url = Path(job_dir), url.rstrip("/")
        self.seconds = (
            float(os.environ.get("MAE_SYNC_SECONDS", "5")) if seconds is None else seconds
        )
        self._excludes: list[str] = []
        with contextlib.suppress(MaeError):
            self._excludes = records.read_record(self.job_dir)["launch"].get("upload_excludes", [])
        self._done: dict[str, tuple[int, int]] = {}
        self._note: dict[str, Any] | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="sync", daemon=True)
        self._thread.start()

    def finish(self) -> None:
        """Copy what is left and compare the sizes at the far end.

        Raises:
            StorageError: a file did not arrive.
        """
        self._over.set()
        self._thread.join()
        self._round()
        self.push_record()

        there = transfer.list_details(self.url)
        sizes = {name: size for name, (size, _) in self._done.items()}
        wrong = [name for name, size in sizes.items() if there.get(name, {}).get("size") != size]
        if wrong:
            raise StorageError(
                f"{len(wrong)} files did not arrive whole: {', '.join(sorted(wrong)[:5])}",
                got=urls.redact(self.url),
            )

    def push_record(self) -> None:
        """Copy ``job.json`` as it is now."""
        data = (self.job_dir / records.RECORD_NAME).read_bytes()
        transfer.write_bytes(urls.join(self.url, records.RECORD_NAME), data)

    def _follow(self) -> None:
        while not self._over.wait(self.seconds):
            try:
                self._round()
                self.push_record()
            except Exception as error:  # the next round tries again, and `finish` raises
                print(f"sync: {error}", file=sys.stderr)

    def _round(self) -> None:
        marks, links = self._scan()
        changed = [name for name, mark in marks.items() if self._done.get(name) != mark]
        self._upload([name for name in changed if Path(name).name not in _INDEXES], marks)
        self._upload([name for name in changed if Path(name).name in _INDEXES], marks)

        note = {"work_dir": str(self.job_dir), "links": links}
        if note != self._note:
            transfer.write_bytes(
                urls.join(self.url, SYNC_NAME), json.dumps(note, indent=1).encode()
            )
            self._note = note

        for name in [name for name in self._done if name not in marks]:
            transfer.delete(urls.join(self.url, name))
            del self._done[name]

    def _upload(self, names: list[str], marks: dict[str, tuple[int, int]]) -> None:
        """Upload files; of one that may still grow, a copy made in one go."""
        if not names:
            return
        marks = {name: marks[name] for name in names}
        with tempfile.TemporaryDirectory(prefix="mae-sync-") as aside:
            pairs = []
            for number, name in enumerate(names):
                path = self.job_dir / name
                if path.suffix in _GROWING or "tfevents" in path.name:
                    still = Path(aside) / str(number)
                    try:
                        before = path.stat()
                        shutil.copyfile(path, still)
                    except FileNotFoundError:
                        del marks[name]
                        continue
                    marks[name] = (still.stat().st_size, before.st_mtime_ns)
                    path = still
                elif not path.is_file():
                    del marks[name]
                    continue
                pairs.append((str(path), urls.join(self.url, name)))
            transfer.upload_many(pairs)
        self._done.update(marks)

    def _scan(self) -> tuple[dict[str, tuple[int, int]], dict[str, str]]:
        """Relative path → (bytes, time of change), and link inside the folder → its target."""
        marks: dict[str, tuple[int, int]] = {}
        links: dict[str, str] = {}
        for base, folders, names in os.walk(self.job_dir):
            folders[:] = [name for name in folders if not name.startswith(".")]
            for name in names:
                path = Path(base) / name
                relative = str(path.relative_to(self.job_dir))
                if name.startswith(".") or relative in _OWN:
                    continue
                if any(fnmatch.fnmatch(relative, pattern) for pattern in self._excludes):
                    continue
                if path.is_symlink() and path.resolve().is_relative_to(self.job_dir.resolve()):
                    links[relative] = str(path.readlink())
                    continue
                try:
                    stat = path.stat()
                except FileNotFoundError:
                    continue
                marks[relative] = (stat.st_size, stat.st_mtime_ns)
        return marks, links


def pull(url: str, job_dir: Path) -> None:
    """Bring a job folder back, to resume it on this machine.

    Paths inside its spec and command are changed to their new place.

    A folder that has a record already is left as it is. The record is written last: a pull that was
    cut short starts again.

    Raises:
        NotFoundError: there is no such job.  StorageError: a file could not be brought.
    """
    job_dir = Path(job_dir)
    if (job_dir / records.RECORD_NAME).exists():
        return

    text = transfer.read_bytes(urls.join(url, records.RECORD_NAME)).decode()
    there = transfer.list_details(url)
    note = json.loads(transfer.read_bytes(urls.join(url, SYNC_NAME))) if SYNC_NAME in there else {}
    names = [name for name in there if name not in _OWN and not _climbs(name)]
    job_dir.mkdir(parents=True, exist_ok=True)
    transfer.download_many([(urls.join(url, name), str(job_dir / name)) for name in names])

    for name, target in (note.get("links") or {}).items():
        link = job_dir / name
        if _climbs(name) or not (link.parent / target).resolve().is_relative_to(job_dir.resolve()):
            continue
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(target)

    before = str(note.get("work_dir") or "")
    if before and before != str(job_dir):
        spec = job_dir / "spec.yaml"
        if spec.is_file():
            files.write_text(spec, spec.read_text(encoding="utf-8").replace(before, str(job_dir)))
        text = text.replace(json.dumps(before)[1:-1], json.dumps(str(job_dir))[1:-1])

    content = json.loads(text)
    command: list[str] = (content.get("launch") or {}).get("command") or [""]
    program = Path(command[0])
    if program.is_absolute() and not program.exists() and "python" in program.name:
        command[0] = sys.executable  # the interpreter of the other machine
    files.write_json(job_dir / records.RECORD_NAME, content)


def _climbs(name: str) -> bool:
    """Whether a name leads out of the folder."""
    return name.startswith("/") or ".." in Path(name).parts
