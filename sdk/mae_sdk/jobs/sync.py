"""A job folder and its copy behind a URL: kept up to date, and brought back to resume elsewhere.

What led to a checkpoint (status, metrics, log) goes before it, a checkpoint before the index that
names it, and the record goes last: a reader never finds a name without its file, and a machine that
is lost in between leaves a checkpoint whose past is there too.

There is one writer per job. `claim` decides who that is, and `take_over` who is next when it is
gone; both leave it to the store which of several gets there first.
"""

from __future__ import annotations

import contextlib
import fnmatch
import json
import os
import shutil
import sys
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mae_skill.errors import MaeError, NotFoundError, StorageError

from mae_sdk import files
from mae_sdk.jobs import records
from mae_sdk.storage import transfer, urls

SYNC_NAME = "sync.json"
CLAIMS = "claims"
_INDEXES = ("checkpoints.json", "result.json")
_OWN = (records.RECORD_NAME, records.CANCEL_NAME, SYNC_NAME)
_ASIDE = ".sync"
_LOOK_SECONDS = 0.5
"""Between two looks for a record that seems to be removed: a store that replaces one may show
none."""
_GROWING = (".txt", ".json", ".jsonl", ".csv", ".log")


def claim(url: str, record: records.JobRecord) -> records.JobRecord | None:
    """Create the remote record of a job, once whoever else tries.

    Returns:
        None when this call created it, else the record that was there first.

    Raises:
        StorageError: the store failed.  DataError: what is there is no record.
    """
    target = urls.join(url, records.RECORD_NAME)
    # A request that is repeated after a lost answer finds its own claim there.
    record = {"claim": new_claim(), **record}
    try:
        transfer.write_bytes(target, _as_bytes(record), if_none_match=True)
    except StorageError as error:
        is_there = getattr(error, "cause", "") == "exists"
        if not is_there and (error.retryable or not transfer.exists(target)):
            raise
        first: records.JobRecord = records.once_whole(lambda: _read(target))
        return None if first.get("claim") == record["claim"] else first
    return None


def new_claim() -> str:
    """A name for the right to run a job."""
    return uuid.uuid4().hex


def take_over(
    url: str,
    seen: records.JobRecord,
    process: records.ProcessIdentity,
    is_gone: Callable[[records.ProcessIdentity], bool],
    silent_seconds: float | None,
) -> bool:
    """Become the one who runs a job whose machine or caller is lost, once whoever else tries.

    Every further claim is an object of its own, with the next number. Ages are compared by the
    store's clock alone.

    Args:
        seen: the record by which this was decided; with another one it is not done.
        process: who asks.
        is_gone: whether a process of this machine has ended.
        silent_seconds: how long the record must not have changed; None: that does not matter.

    Returns:
        False where another one is at it, or the job has shown itself again.

    Raises:
        StorageError: the store failed.
    """
    folder, record_url = urls.join(url, CLAIMS), urls.join(url, records.RECORD_NAME)
    numbers = [int(name) for name in transfer.list_files(folder) if name.isdecimal()]
    last = max(numbers, default=1)
    mine = urls.join(folder, str(last + 1))
    content = _as_bytes({"claim": new_claim(), "process": process})
    try:
        transfer.write_bytes(mine, content, if_none_match=True)
    except StorageError as error:
        if error.retryable or not transfer.exists(mine):
            raise
        if transfer.read_bytes(mine) != content:
            return False

    now = transfer.info(mine)["mtime"]
    changed = records.once_whole(lambda: transfer.info(record_url))["mtime"]
    free = records.once_whole(lambda: _read(record_url)) == seen
    if silent_seconds is not None:
        free &= None not in (now, changed) and now - changed >= silent_seconds
    if numbers:
        before = urls.join(folder, str(last))
        at = transfer.info(before)["mtime"]
        # One that the record has followed is used up; so is one whose owner has ended.
        waits = None in (now, at, changed) or (at >= changed and now - at < records.STALE_SECONDS)
        free &= not waits or is_gone(_read(before).get("process") or process)
    if not free:
        transfer.delete(mine)
    return bool(free)


def replace_record(url: str, record: records.JobRecord) -> None:
    """Write the record of a job that was taken over."""
    transfer.write_bytes(urls.join(url, records.RECORD_NAME), _as_bytes(record))


def _as_bytes(content: Any) -> bytes:
    return json.dumps(content, indent=1, allow_nan=False).encode()


def read_record(url: str, job_id: str) -> records.JobRecord:
    """The record of the job behind a URL.

    Raises:
        NotFoundError: there is no such job.  DataError: its record is damaged.
        StorageError: the store failed.
    """
    return records.parse_record(_record_text(url, job_id), job_id, urls.redact(url))


def _record_text(url: str, job_id: str) -> str:
    def read() -> str:
        text = transfer.read_bytes(urls.join(url, records.RECORD_NAME)).decode(errors="replace")
        records.parse_record(text, job_id, urls.redact(url))
        return text

    return records.once_whole(read)


def _read(url: str) -> Any:
    return files.parse_json(transfer.read_bytes(url).decode(errors="replace"))


def asked(url: str) -> str:
    """Why the job behind a URL is to be canceled, as its request says; that of an earlier version
    is empty."""
    said = b""
    with contextlib.suppress(MaeError, OSError):
        if transfer.info(urls.join(url, records.CANCEL_NAME))["size"]:
            said = transfer.read_bytes(urls.join(url, records.CANCEL_NAME))
    return said.decode(errors="replace").strip() or records.ON_REQUEST


class FolderSync:
    """Copies a job folder to a URL as it changes, in a thread of its own.

    Args:
        job_dir: the folder.
        url: where its copy is.
        seconds: between two rounds (``MAE_SYNC_SECONDS``, 5 s).

    A failure while the job runs is tried again in the next round; only `finish` raises.

    Attributes:
        displaced: set when the job turns out to be another machine's; nothing is copied then.
        removed: set, with `displaced`, when its record is gone that was there: somebody has removed
            the job. A store that does not answer says nothing of that.
    """

    def __init__(self, job_dir: Path, url: str, seconds: float | None = None) -> None:
        self.job_dir, self.url = Path(job_dir), url.rstrip("/")
        self.seconds = (
            float(os.environ.get("MAE_SYNC_SECONDS", "5")) if seconds is None else seconds
        )
        self._excludes: list[str] = []
        self._claim: str | None = None
        self._may_be_canceled = False
        self._was_there = False
        self.displaced, self.removed = threading.Event(), threading.Event()
        with contextlib.suppress(MaeError):
            record = records.read_record(self.job_dir)
            self._excludes = record["launch"].get("upload_excludes", [])
            self._claim = record.get("claim")
            self._may_be_canceled = "handle" in records.last_attempt(record)
        shutil.rmtree(self.job_dir / _ASIDE, ignore_errors=True)  # a killed one's copies
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
        if self.displaced.is_set():
            return
        self._round()
        if self.displaced.is_set():
            return
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
        if self.displaced.is_set():
            return
        data = (self.job_dir / records.RECORD_NAME).read_bytes()
        transfer.write_bytes(urls.join(self.url, records.RECORD_NAME), data)
        self._was_there = True

    def _look_for_removal(self) -> None:
        """Find out whether somebody has removed the job, here or behind its URL."""
        if not (self.job_dir / records.RECORD_NAME).exists():
            self.displaced.set()  # its supervisor sees that too; the files at the URL stay
        elif self._was_there and not self._is_behind_its_url():
            time.sleep(_LOOK_SECONDS)
            if not self._is_behind_its_url():
                self.removed.set()
                self.displaced.set()

    def _is_behind_its_url(self) -> bool:
        return transfer.exists(urls.join(self.url, records.RECORD_NAME))

    def _follow(self) -> None:
        while not self.displaced.is_set():
            try:
                self._round()
                self.push_record()
                self.look_for_cancel()
            except Exception as error:  # the next round tries again, and `finish` raises
                print(f"sync: {error}", file=sys.stderr)
            if self._over.wait(self.seconds):
                return

    def look_for_cancel(self) -> None:
        """Take over a request to cancel that another machine has put behind the URL."""
        request = urls.join(self.url, records.CANCEL_NAME)
        if self._may_be_canceled and transfer.exists(request):
            records.request_cancel(self.job_dir, asked(self.url))
            transfer.delete(request)

    def _check_claim(self) -> None:
        """Find out, once, whether another machine has taken the job over in the meantime."""
        if self._claim is None:
            return
        with contextlib.suppress(NotFoundError):
            place = urls.join(self.url, records.RECORD_NAME)
            there = records.once_whole(lambda: _read(place)).get("claim")
            if there not in (None, self._claim):
                self.displaced.set()
        self._claim = None

    def _round(self) -> None:
        self._check_claim()
        self._look_for_removal()
        if self.displaced.is_set():
            return
        marks, links = self._scan()
        changed = [name for name, mark in marks.items() if self._done.get(name) != mark]
        last = [name for name in changed if Path(name).name in _INDEXES]
        first = [name for name in changed if _grows(name) and name not in last]
        self._upload(first, marks)
        self._upload([name for name in changed if name not in first and name not in last], marks)
        self._upload(last, marks)

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
        aside = self.job_dir / _ASIDE
        aside.mkdir(exist_ok=True)
        try:
            pairs = []
            for number, name in enumerate(names):
                path = self.job_dir / name
                if _grows(name):
                    still = aside / str(number)
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
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        self._done.update(marks)

    def _scan(self) -> tuple[dict[str, tuple[int, int]], dict[str, str]]:
        return _scan(self.job_dir, self._excludes)


def _scan(
    job_dir: Path, excludes: Sequence[str] = ()
) -> tuple[dict[str, tuple[int, int]], dict[str, str]]:
    """Relative path → (bytes, time of change), and link inside the folder → its target."""
    marks: dict[str, tuple[int, int]] = {}
    links: dict[str, str] = {}
    for base, folders, names in os.walk(job_dir):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            path = Path(base) / name
            relative = str(path.relative_to(job_dir))
            if name.startswith(".") or relative in _OWN:
                continue
            if any(fnmatch.fnmatch(relative, pattern) for pattern in excludes):
                continue
            if path.is_symlink() and path.resolve().is_relative_to(job_dir.resolve()):
                links[relative] = str(path.readlink())
                continue
            try:
                stat = path.stat()
            except FileNotFoundError:
                continue
            marks[relative] = (stat.st_size, stat.st_mtime_ns)
    return marks, links


def is_whole(job_dir: Path, url: str) -> bool:
    """Whether a job is COMPLETE behind its URL, with every file that its folder here has.

    Raises:
        StorageError, NotFoundError, DataError: the store does not say.
    """
    there = read_record(url, job_dir.name)
    if records.last_attempt(there)["state"] != records.COMPLETE:
        return False
    listed = transfer.list_details(url)
    marks, _ = _scan(job_dir)
    return all(listed.get(name, {}).get("size") == size for name, (size, _) in marks.items())


def _grows(name: str) -> bool:
    """Whether a file of this name may still be written to while it is copied."""
    path = Path(name)
    return path.suffix in _GROWING or "tfevents" in path.name


def pull(url: str, job_dir: Path, claim: str | None = None) -> None:
    """Bring a job folder back, to resume it on this machine.

    Paths inside its spec and command are changed to their new place.

    A folder that has a record already is left as it is. The record is written last: a pull that was
    cut short starts again.

    Args:
        claim: what the record says from here on about who may run the job.

    Raises:
        NotFoundError: there is no such job.  StorageError: a file could not be brought.
        DataError: its record is damaged.
    """
    job_dir = Path(job_dir)
    if (job_dir / records.RECORD_NAME).exists():
        return

    text = _record_text(url, job_dir.name)
    first = records.parse_record(text, job_dir.name, urls.redact(url)).get("claimed")
    there = transfer.list_details(url)
    note = _note(url) if SYNC_NAME in there else {}
    names = [
        name
        for name in there
        if name not in _OWN and not name.startswith(f"{CLAIMS}/") and not _climbs(name)
    ]
    job_dir.mkdir(parents=True, exist_ok=True)
    transfer.download_many([(urls.join(url, name), str(job_dir / name)) for name in names])
    if first is not None:  # lost before the first copy
        note = {"work_dir": first["folder"]}
        for name, content in first["files"].items():
            if not _climbs(name):
                files.write_text(job_dir / name, content)

    for name, target in (note.get("links") or {}).items():
        link = job_dir / name
        if _climbs(name) or not (link.parent / target).resolve().is_relative_to(job_dir.resolve()):
            continue
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(target)

    before = str(note.get("work_dir") or "")
    if before and before != str(job_dir):
        for name in ("spec.yaml", "automl/study.json"):
            if (path := job_dir / name).is_file():
                files.write_text(
                    path, path.read_text(encoding="utf-8").replace(before, str(job_dir))
                )
        text = text.replace(json.dumps(before)[1:-1], json.dumps(str(job_dir))[1:-1])

    content = json.loads(text)
    content.pop("claimed", None)
    if claim is not None:
        content["claim"] = claim
    command: list[str] = (content.get("launch") or {}).get("command") or [""]
    program = Path(command[0])
    if program.is_absolute() and not program.exists() and "python" in program.name:
        command[0] = sys.executable  # the interpreter of the other machine
    files.write_json(job_dir / records.RECORD_NAME, content)


def _note(url: str) -> dict[str, Any]:
    """What the last copy said of its folder; nothing of a damaged one."""
    try:
        note = _read(urls.join(url, SYNC_NAME))
        links = {str(name): str(target) for name, target in note["links"].items()}
        return {"work_dir": str(note["work_dir"]), "links": links}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}


def push(job_dir: Path, url: str) -> None:
    """Copy a folder once.

    Raises:
        StorageError: a file did not arrive.
    """
    FolderSync(job_dir, url).finish()


def _climbs(name: str) -> bool:
    """Whether a name leads out of the folder."""
    return name.startswith("/") or ".." in Path(name).parts
