"""The results root: a local folder or a URL that holds job folders, read alike."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from mae_skill.errors import DataError, MaeError, NotFoundError, StorageError, UsageError

from mae_sdk import files
from mae_sdk.jobs import records
from mae_sdk.jobs.records import JobRecord
from mae_sdk.storage import urls

DEFAULT_ROOT = "mae-results"
_MAX_BYTES = 1 << 30


def working_copies() -> Path:
    """The folder that holds the scratch folders of this machine, by results root."""
    return Path(os.environ.get("MAE_SCRATCH") or files.cache_home() / "scratch").resolve()


class Root:
    """A results root.

    Args:
        where: a path or URL; None means ``MAE_RESULTS_ROOT``, else ``./mae-results``.

    Raises:
        UsageError: it is empty.

    A job under a remote root runs in a local scratch folder; on that machine its state is read
    there.
    """

    def __init__(self, where: str | os.PathLike[str] | None = None) -> None:
        text = (
            os.environ.get("MAE_RESULTS_ROOT") or DEFAULT_ROOT
            if where is None
            else os.fspath(where)
        )
        if not text:
            raise UsageError(
                "must not be empty",
                field="results_root",
                got="",
                expected="a folder or URL, or leave the option out",
                hint="name a folder or URL, or leave it out",
            )

        urls.check_writable(text, "results_root")
        self.remote = urls.is_remote(text)
        # Its credentials are kept aside: the URL goes into records and is shown.
        text = (
            urls.seal(text.rstrip("/")) if self.remote else os.path.realpath(urls.local_path(text))
        )
        self.url = text
        self._held: dict[str, tuple[str | None, bool]] = {}

    def job_url(self, job_id: str) -> str:
        """Where a job's folder is, or will be."""
        return urls.join(self.url, job_id)

    def work_dir(self, job_id: str) -> Path:
        """The local folder in which a job runs; of a remote root, its scratch folder."""
        if not self.remote:
            return Path(self.url) / job_id
        return working_copies() / hashlib.sha256(self.url.encode()).hexdigest()[:12] / job_id

    def holds(self, job_id: str) -> bool:
        """Whether the folder on this machine is the job's, and no copy that the job has left.

        A job behind a URL that another machine has taken over leaves its scratch folder here. The
        store is asked once for each claim that the folder makes.
        """
        is_here = os.path.lexists(self.work_dir(job_id) / records.RECORD_NAME)
        if not self.remote or not is_here:
            return is_here
        try:
            own = records.read_record(self.work_dir(job_id)).get("claim")
        except MaeError:
            return True
        if own in (None, records.HANDED_OVER):  # a trial without one goes where its study goes
            return own is None
        if self._held.get(job_id, (None,))[0] != own:
            self._held[job_id] = (own, self._is_ours(job_id, own))
        return self._held[job_id][1]

    def forget(self, job_id: str) -> None:
        """Ask again whether the folder on this machine is the job's."""
        self._held.pop(job_id, None)

    def _is_ours(self, job_id: str, own: str) -> bool:
        from mae_sdk.storage import transfer

        try:
            text = transfer.read_bytes(urls.join(self.job_url(job_id), records.RECORD_NAME))
            there = records.parse_record(text.decode(errors="replace"), job_id, self.url)
        except MaeError:  # not there yet, or the store does not answer: what is here counts
            return True
        return there.get("claim") in (None, own)

    def record(self, job_id: str) -> JobRecord:
        """The record of a job.

        Raises:
            NotFoundError: there is no such job.  DataError: its record cannot be read.
        """
        check_id(job_id)
        if not self.remote or self.holds(job_id):
            return records.read_record(self.work_dir(job_id))
        text = self.read(job_id, records.RECORD_NAME).decode(errors="replace")
        return records.parse_record(text, job_id, urls.join(urls.redact(self.url), job_id))

    def read(self, job_id: str, relative: str) -> bytes:
        """A file of a job folder.

        Raises:
            NotFoundError: there is no such file.
        """
        local = self.work_dir(job_id) / relative
        if not self.remote or (local.exists() and self.holds(job_id)):
            try:
                return files.read_small_bytes(local, _MAX_BYTES)
            except (FileNotFoundError, NotADirectoryError):
                raise NotFoundError(f"job {job_id} has no {relative}", got=str(local)) from None
            except OSError as error:
                raise DataError(
                    f"{relative} of job {job_id} cannot be read: {error.strerror}", got=str(local)
                ) from error
        from mae_sdk.storage import transfer

        return transfer.read_bytes(urls.join(self.job_url(job_id), relative))

    def files(self, job_id: str) -> dict[str, int]:
        """Every file of a job folder, relative path → size."""
        if not self.remote:
            base = self.work_dir(job_id)
            return {
                str(path.relative_to(base)): path.stat().st_size
                for path in sorted(base.rglob("*"))
                if path.is_file()
            }
        from mae_sdk.storage import transfer

        return {
            name: int(details.get("size") or 0)
            for name, details in transfer.list_details(self.job_url(job_id)).items()
        }

    def ids(self) -> list[str]:
        """Every job id under the root.

        Raises:
            StorageError: it cannot be listed.
        """
        if not self.remote:
            try:
                with os.scandir(self.url) as entries:
                    return [e.name for e in entries if not e.name.startswith(".") and _is_dir(e)]
            except FileNotFoundError:
                return []
            except OSError as error:
                raise StorageError(
                    f"the results root cannot be listed: {error}",
                    field="results_root",
                    got=self.url,
                    hint="name a folder that can be read",
                    expected="a folder or URL that can be read",
                ) from None
        from mae_sdk.storage import transfer

        return transfer.list_folders(self.url)

    def resolve(self, prefix: str) -> str:
        """The id that `prefix` names.

        Raises:
            NotFoundError: none. UsageError: more than one.
        """
        check_id(prefix)
        if not self.remote and os.path.lexists(Path(self.url) / prefix / records.RECORD_NAME):
            return prefix
        ids = self.ids()
        if prefix in ids:
            return prefix
        found = [job_id for job_id in ids if job_id.startswith(prefix)]
        top = [job_id for job_id in found if "." not in job_id]
        found = top if len(top) == 1 else found
        if not found:
            raise NotFoundError(
                "no such job",
                field="job",
                got=prefix,
                expected=f"a job under {urls.redact(self.url)}",
                hint="mae jobs list",
            )
        if len(found) > 1:
            raise UsageError(
                "the prefix names more than one job",
                field="job",
                got=prefix,
                expected="one of " + ", ".join(sorted(found)[:8]),
                hint="write more of the id",
            )
        return found[0]


def _is_dir(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link in a circle
        return False


def check_id(job_id: str) -> None:
    """Refuse what cannot be a job id, before it becomes part of a path.

    Raises:
        UsageError: it is empty, hidden, or holds anything but letters, digits, dot, dash and
            underscore.
    """
    if (
        not job_id
        or job_id[0] in ".-"
        or not all(c.isascii() and (c.isalnum() or c in "._-") for c in job_id)
    ):
        raise UsageError(
            "not a job id",
            field="job",
            got=job_id,
            expected="letters, digits, '.', '-', '_'",
            hint="an id is the name of the job's folder alone; its place is the results root",
        )
