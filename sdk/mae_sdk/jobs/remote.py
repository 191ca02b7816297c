"""A job behind a URL whose scratch folder is not on this machine: read where it is; brought here only to be resumed."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mae_skill.errors import NotFoundError, UsageError

from mae_sdk.job import Job
from mae_sdk.jobs import records
from mae_sdk.jobs.failure import failure
from mae_sdk.jobs.root import Root
from mae_sdk.jobs.status import metrics_of, parse_status


class RemoteJob(Job):
    """A job of a remote results root, seen from a machine that does not run it.

    Args:
        root: the results root.  job_id: its id.
    """

    def __init__(self, root: Root, job_id: str) -> None:
        super().__init__(root.work_dir(job_id))
        self.root = root

    @property
    def _here(self) -> bool:
        return (self.folder / records.RECORD_NAME).exists()

    @property
    def _longest_pause(self) -> float:
        return super()._longest_pause if self._here else 2.0

    @property
    def record(self) -> records.ShownRecord:
        if self._here:
            return super().record
        record = self._there()
        return {**record, "error": records.last_attempt(record)["failure"]}

    def observe(self) -> tuple[records.JobRecord, str]:
        """The record, and the state; UNKNOWN when a run elsewhere has not shown itself for a while."""
        if self._here:
            return super().observe()
        record = self._there()
        state = records.state_of(record)
        attempt = records.last_attempt(record)["state"]
        if not records.is_terminal(attempt) and self._silent_seconds() > records.STALE_SECONDS:
            state = records.UNKNOWN
        return record, state

    def _there(self) -> records.JobRecord:
        """The record behind the URL. A store that does not replace objects at once may show none, or half of one, for a moment."""
        for pause in (0.1, 0.4):
            try:
                return self.root.record(self.id)
            except NotFoundError:
                time.sleep(pause)
        return self.root.record(self.id)

    def _silent_seconds(self) -> float:
        from mae_sdk.storage import transfer, urls

        changed = transfer.info(urls.join(self.root.job_url(self.id), records.RECORD_NAME))["mtime"]
        return 0.0 if changed is None else max(0.0, time.time() - float(changed))

    def _lines(self) -> list[dict[str, Any]]:
        return super()._lines() if self._here else parse_status(self._text("status.json"))

    def _text(self, relative: str) -> str:
        if self._here:
            return super()._text(relative)
        try:
            return self.root.read(self.id, relative).decode(errors="replace")
        except NotFoundError:
            return ""

    def metrics(self) -> dict[str, Any]:
        return metrics_of(self._lines())

    def best_checkpoint(self, policy: str = "best") -> Path:
        """The checkpoint by policy, brought into the local scratch."""
        if self._here:
            return super().best_checkpoint(policy)
        from mae_sdk.jobs.outputs import parent_info
        from mae_sdk.plan.inferred_fields import fetch

        made = parent_info(self.id, self.root.url, complete=False).model(policy)
        fetch([made])
        return made.path

    def cancel(self, wait: float = 40.0) -> str:
        """Cancel from the machine that runs it.

        Raises:
            UsageError: the job runs on another machine.
        """
        if self._here:
            return super().cancel(wait)
        record, state = self.observe()
        if not records.is_terminal(records.last_attempt(record)["state"]):
            raise UsageError(
                "the job runs on another machine; cancel it there", field="job", got=self.id
            )
        return state

    def resume(self, env: Mapping[str, str] | None = None, *, lost: bool = False) -> Job:
        """Bring the folder here and open a new attempt from its newest checkpoint.

        Raises:
            UsageError: it is complete, or shows signs of life elsewhere.
        """
        if not self._here:
            record, state = self.observe()
            ended = records.is_terminal(records.last_attempt(record)["state"])
            if state == records.COMPLETE or (not ended and state != records.UNKNOWN):
                raise UsageError(
                    f"a job that is {state} elsewhere cannot be resumed", field="job", got=self.id
                )
            from mae_sdk.jobs.sync import pull

            pull(self.root.job_url(self.id), self.folder)
            if not ended:
                message = "the machine that ran it has not shown itself"
                reason = failure("lost_process", message)
                records.update_record(
                    self.folder,
                    lambda record: (
                        records.advance(record, records.ERROR, message, failure=reason),
                        None,
                    )[1],
                )
        return super().resume(env, lost=lost)
