"""The trials of a study as jobs, ``<results root>/<AutoML job>.t003``, on that job's platform.

A trial's name is fixed by its number, its folder appears whole or not at all, and a platform starts
a pending attempt once; so a controller that is killed at any moment finds its trials again, and
none runs twice. The status of a trial is read from its folder, like that of any job: behind the
URL of the results root where the platform takes its jobs there.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, cast

from mae_skill.dotted import flatten
from mae_skill.errors import NotFoundError

from mae_sdk import files
from mae_sdk.job import (
    Job,
    ask,
    bring,
    common_root,
    content_of,
    open_job,
    status_bytes,
    status_lines,
)
from mae_sdk.jobs import metric_file, records
from mae_sdk.jobs.command_words import command_for, fill, follow_spec, places
from mae_sdk.jobs.config_file import SPEC, write_spec
from mae_sdk.jobs.records import JobRecord, Launch, StudyRecord
from mae_sdk.jobs.status import metrics_of
from mae_sdk.run.platform import platform_of, submit
from mae_sdk.storage import urls

METRICS_VARIABLE = "MAE_TRIAL_METRICS"
"""Tells the runner which metrics the study judges: some cost time and are measured only then."""

_OWN = frozenset({"automl", "idempotency_key", "spec_digest", "digest", "claim"})
"""Fields of the AutoML job's record that its trials do not take over."""

_FORMER_WARM_CLIENT = ("-m", "mae_sdk.automl.warm_client")
"""In front of the command of a trial made before the platform saw to the warm start."""


@dataclass(frozen=True)
class TrialStatus:
    """The state of a trial's job and, where it failed, the category and message of the failure."""

    state: str
    category: str = ""
    message: str = ""


class Trials:
    """The jobs of a study.

    Args:
        job_dir: the AutoML job's folder; its trials are beside it.
        study: the content of ``study.json``.
        warm: whether the platform may start trials warm, if it can.
    """

    def __init__(self, job_dir: Path, study: StudyRecord, *, warm: bool = False) -> None:
        self.job_dir = job_dir
        self.owner = job_dir.name
        self.study = study
        self.root = common_root(job_dir, records.read_record(job_dir))
        self.warm_command = list(study.get("warm_command") or []) if warm else []

    def path(self, number: int) -> Path:
        """The folder of a trial's job."""
        return self.job_dir.parent / f"{self.job_dir.name}.t{number:03d}"

    def job(self, folder: Path) -> Job:
        """The job of a trial, wherever its platform has taken it."""
        return open_job(self.root, folder.name)

    def create(self, number: int, spec: Mapping[str, Any]) -> Path:
        """Make the job of a trial; one that is there already is left as it is."""
        folder = self.path(number)
        if (folder / records.RECORD_NAME).exists() or self._was_handed_over(folder, spec):
            return folder

        record = records.read_record(self.job_dir)
        for name in _OWN & record.keys():
            record.pop(name)  # type: ignore[misc]  # the names are those of optional keys
        record["id"], record["kind"], record["trial"] = folder.name, "trial", number
        record["automl_parent"] = self.job_dir.name
        record["created_at"] = records.now()
        record["action"] = self.study.get("action", "train")
        moved = _moved(spec, str(self.job_dir), str(folder))
        if "changed" in record:
            record["changed"] = self._changed(folder, moved)
        if number != 0 and "warnings" in record:
            # The plan has judged the spec as given. What it said of the images holds for all.
            record["warnings"] = list(record.get("data_warnings") or [])
            record["notes"] = []
        record["launch"], record["attempts"] = self._launch(folder), []
        record["launch"]["command"] = command_for(record["launch"], moved, folder)
        records.new_attempt(record)

        with files.atomic_folder(folder, replace=True) as temporary:
            write_spec(temporary, moved, self.study["launch"].get("config"))
            files.write_json(temporary / records.RECORD_NAME, record)
        return folder

    def _changed(self, folder: Path, spec: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """The fields of a trial that are not the template's, and where each value comes from: the
        search, the auto recipe, or what the study was given."""
        from mae_skill.reader import read_spec  # loads yaml: a plan does without

        def placed(spec: Mapping[str, Any]) -> dict[str, Any]:
            return flatten(_moved(spec, str(self.job_dir), str(folder)))

        given = placed(read_spec(self.job_dir / SPEC))
        of_study = records.read_record(self.job_dir).get("changed") or {}
        recipe = placed(self.study.get("auto_spec") or {})
        parameters = self.study.get("space", {}).get("knobs", [])
        searched = {str(one.get("name")).partition("[")[0] for one in parameters}

        found = {}
        for key, value in flatten(spec).items():
            known = of_study.get(key)
            template = known.get("default") if known is not None else given.get(key)
            if key == "results_dir" or value == template:
                continue
            origin = "the study" if known is None else str(known.get("origin"))
            if value != given.get(key):
                origin = "the auto recipe" if recipe.get(key) == value else "the study"
                origin = "the search" if key in searched and origin == "the study" else origin
            found[key] = {"origin": origin, "default": template}
        return found

    def _was_handed_over(self, folder: Path, spec: Mapping[str, Any]) -> bool:
        """Whether the trial is behind its URL, as another machine left it; then a copy is put here.

        The study was resumed on this machine.
        """
        if not self.root.remote:
            return False
        try:
            record = self.root.record(folder.name)
        except NotFoundError:
            return False
        with files.atomic_folder(folder, replace=True) as temporary:
            write_spec(temporary, spec, self.study["launch"].get("config"))
            copy = {**record, "claim": records.HANDED_OVER}
            files.write_json(temporary / records.RECORD_NAME, copy)
        return True

    def _launch(self, folder: Path) -> Launch:
        """The study's launch record, filled in for one trial.

        Of it the words of the command are a template, and the end of its place behind a URL. The
        rest is as the caller has it, such as a folder whose name has braces.
        """
        template = self.study["launch"]
        filled: dict[str, Any] = dict(template)
        values = places(folder, template.get("config", SPEC))
        filled["command"] = [fill(word, values) for word in template["command"]]
        if (remote := template.get("remote", "")).endswith("{job_id}"):
            filled["remote"] = remote.removesuffix("{job_id}") + folder.name
        if self.warm_command:
            warm_folder = str(self.job_dir / "automl")
            filled["warm"] = {"command": self.warm_command, "folder": warm_folder}
        return cast(Launch, filled)

    def start(self, folder: Path) -> None:
        """Submit a trial's job, unless it runs or has ended.

        A job whose supervisor was lost with the controller goes on from its newest checkpoint.
        """
        self._take_over(folder)
        if self.status(folder).category == "lost_process":
            self.retry(folder, None)
        else:
            submit(folder, self._environment(folder))

    def retry(self, folder: Path, spec: Mapping[str, Any] | None) -> None:
        """Open a new attempt of a trial's job.

        Args:
            spec: a changed spec, with which it starts from the beginning; None: it goes on from its
                newest checkpoint.
        """

        def open_attempt(record: JobRecord) -> None:
            if not records.is_terminal(records.last_attempt(record)["state"]):
                records.advance(record, records.ERROR, "its supervisor is gone")
            records.new_attempt(record, "retried by the study")

        bring(self.job(folder))
        (folder / records.CANCEL_NAME).unlink(missing_ok=True)
        records.update_record(folder, open_attempt)

        if spec is None:
            from mae_sdk.jobs.resume import prepare

            prepare(folder)
        else:  # checkpoints of another spec are of no use to it
            self._remove_results(folder)

            def note_changes(record: JobRecord) -> None:
                if "changed" in record:
                    record["changed"] = self._changed(folder, spec)

            records.update_record(folder, note_changes)
            write_spec(folder, spec, self.study["launch"].get("config"))
            follow_spec(folder, spec)

        submit(folder, self._environment(folder))

    def _remove_results(self, folder: Path) -> None:
        """Remove what a trial has made, behind its URL too."""
        action = self.study.get("action", "train")
        shutil.rmtree(folder / action, ignore_errors=True)
        if self.root.remote:
            from mae_sdk.storage import transfer

            for name in self.root.files(folder.name):
                if name.startswith(f"{action}/"):
                    transfer.delete(urls.join(self.root.job_url(folder.name), name))

    def _take_over(self, folder: Path) -> None:
        """Bring the record of a trial that an earlier version made to today's form."""
        command = records.read_record(folder)["launch"]["command"]

        def unwrap(record: JobRecord) -> None:
            record["launch"]["command"] = command[3:]

        if tuple(command[1:3]) == _FORMER_WARM_CLIENT:
            records.update_record(folder, unwrap)

    def _environment(self, folder: Path) -> dict[str, str]:
        """What a trial gets beside the environment of the controller."""
        metrics = ",".join(item["metric"] for item in self.study["objectives"])
        environment = {METRICS_VARIABLE: metrics}

        # A job that starts alone takes every core; these are about to have neighbors.
        record = records.read_record(folder)
        place = platform_of(record)
        resources = place.resources(place.settings(record.get("platform_options") or {}))
        concurrency = self.study["concurrency"]
        if resources.here and resources.cores and concurrency > 1:
            threads = str(max(1, resources.cores // concurrency))
            environment["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS") or threads
        return environment

    def status(self, folder: Path) -> TrialStatus:
        """The status of a trial's job; one that was preempted and waits for a resume has failed."""
        record, state = self.job(folder).observe()
        attempt = records.last_attempt(record)

        if attempt["state"] == records.PREEMPTED:
            (seen,) = ask([(folder, record)])
            if records.is_terminal(seen.state):
                return TrialStatus(records.ERROR, "signal", seen.reason)
            return TrialStatus(records.RUNNING)  # its supervisor opens the next attempt
        if not records.is_terminal(attempt["state"]):
            return TrialStatus(state)

        failure: Mapping[str, Any] = attempt.get("failure") or {}
        message = failure.get("message") or attempt["transitions"][-1].get("reason") or ""
        return TrialStatus(state, str(failure.get("category") or ""), str(message))

    def lines(self, folder: Path) -> list[dict[str, Any]]:
        """The lines of a trial's ``status.json``, and what its runner wrote elsewhere."""
        found = status_lines(self.job(folder))
        if name := self.study["launch"].get("metric_file"):
            self._bring_metrics(folder, name)
            metrics = [item["metric"] for item in self.study["objectives"]]
            found += metric_file.lines(folder, name, metrics)
        return found

    def _bring_metrics(self, folder: Path, name: str) -> None:
        """Bring the files with the metrics of a trial that is behind its URL."""
        if not self.root.remote or self.root.holds(folder.name):
            return
        for found in self.root.files(folder.name):
            path = PurePosixPath(found)
            if path.name == PurePosixPath(name).name and ".." not in path.parts:
                text = self.root.read(folder.name, found).decode(errors="replace")
                files.write_text(folder / found, text)

    def looked(self, folder: Path, lines: list[dict[str, Any]]) -> str:
        """Where a metric that a trial did not report was looked for, and what is there."""
        if name := self.study["launch"].get("metric_file"):
            return metric_file.looked(folder, name)
        known = metrics_of(lines)
        return f"its status.json has {', '.join(known) or 'no metrics'}"

    def size(self, folder: Path) -> int:
        """The bytes of the files with its metrics: what grows when there is something to read."""
        return status_bytes(self.job(folder))

    def content(self, child: str, relative: str) -> bytes | None:
        """A file of a trial's folder; None where there is none that can be read."""
        return content_of(open_job(self.root, child), relative)

    def spec(self, folder: Path) -> dict[str, Any]:
        """The spec that a trial runs with."""
        import yaml

        # `write_spec` writes what readers of YAML 1.1 and 1.2 take alike; libyaml is faster.
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        return dict(yaml.load(content_of(self.job(folder), "spec.yaml") or b"", Loader=loader))

    def cancel(self, folder: Path, why: str) -> None:
        """Have a trial's job end; not waited for."""
        self.job(folder).cancel(wait=0.0, why=f"{why} (study {self.owner})")


def _moved(value: Any, old: str, new: str) -> Any:
    """A copy of a spec in which paths in the study's folder are the same paths in a trial's."""
    if isinstance(value, Mapping):
        return {key: _moved(item, old, new) for key, item in value.items()}
    if isinstance(value, list):
        return [_moved(item, old, new) for item in value]
    if isinstance(value, str) and (value == old or value.startswith(f"{old}/")):
        return new + value[len(old) :]
    return value
