"""A skill: a bundle's actions, planned and launched as jobs."""

from __future__ import annotations

import os
import warnings
from typing import TYPE_CHECKING, Any

from mae_skill.errors import StorageError, UsageError

if TYPE_CHECKING:
    from mae_skill.bundle import Bundle

    from mae_sdk.job import Job
    from mae_sdk.plan.plan import Plan


class Skill:
    """The packaged skill, or the bundle in folder `path`.

    Args:
        path: a folder with ``references/skill_info.yaml``; None: the packaged bundle.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        if path is not None and not isinstance(path, (str, os.PathLike)):
            raise UsageError(
                "not a path",
                field="path",
                got=repr(path),
                expected="Skill(FOLDER) of a bundle, or Skill() for the packaged one",
            )
        self.path = None if path is None else os.fspath(path)
        self._bundle: Bundle | None = None

    @property
    def bundle(self) -> Bundle:
        """The bundle's files.

        Raises:
            NotFoundError: there is no bundle. SpecError: it cannot be read.
        """
        if self._bundle is None:
            from mae_skill.bundle import Bundle

            self._bundle = Bundle.load(self.path)
        return self._bundle

    def plan(
        self, action: str, *, measure: bool = False, count: bool = True, **options: Any
    ) -> Plan:
        """What a job would do.

        Nothing starts and nothing is written, except in the cache: archives are indexed there, and
        what is behind a URL is fetched into it.

        Args:
            action: one of the bundle's actions.
            count: fetch, count and judge data behind a URL; else that is left to the launch.
            measure: time some real steps of the run (``measure_command`` of the bundle); data
                behind a URL is fetched for that.
            options: the fields of `mae_sdk.plan.request.Request`: ``spec, train_datasets,
                eval_dataset, inference_dataset, parent_job_id, checkpoint, ptm, automl_policy,
                request, automl, spec_overrides, recipe, budget, env, platform,
                platform_options, results_root, idempotency_key``.

        Raises:
            UsageError, SpecError, DataError, NotFoundError, CheckpointError, DependencyError: all
                problems of the spec together.
        """
        from mae_sdk.jobs.secrets import clean_errors, note_call
        from mae_sdk.plan import make
        from mae_sdk.plan.request import Request

        note_call(options)
        with clean_errors():
            request = Request.of(action, options, skill_dir=self.path)
            plan = make.make_plan(self.bundle, request, remote=count or measure)
            if measure:
                make.measure(self.bundle, plan)
        return plan

    def create_job(self, action: str | Plan | None = None, *more: Any, **options: Any) -> Job:
        """Launch what `plan` would show, or exactly a plan that was made.

        Data behind a URL is fetched into the cache and counted first, so that a class count that
        does not fit is refused before anything trains. With an idempotency key that a job already
        has, that job is returned and nothing is started; where the call asks for another job, a
        `UserWarning` names the fields that differ, and `Job.notices` does.

        Raises:
            UsageError: no action is named, or more than one word without a name. Else as `plan`.
        """
        if action is None or more:
            from mae_sdk.jobs.other_sdk import unnamed_action, unnamed_options

            raise unnamed_options(more, options) if more else unnamed_action(options)
        job = self._created(action, options)
        for notice in job.notices:
            warnings.warn(notice, stacklevel=2)
        return job

    def _created(self, action: str | Plan, options: dict[str, Any]) -> Job:
        from mae_sdk.jobs.secrets import clean_errors, note_call
        from mae_sdk.launch import existing, launch
        from mae_sdk.plan.plan import Plan
        from mae_sdk.plan.repeat import notice_of_call

        if isinstance(action, Plan):
            if options:
                raise UsageError(
                    "a plan is launched as it is",
                    field="options",
                    got=sorted(options),
                    expected="create_job(plan)",
                )
            with clean_errors():
                return launch(self.bundle, action)

        note_call(options)
        with clean_errors():
            first = existing(action, options.get("results_root"), options.get("idempotency_key"))
            if first is None:
                return launch(self.bundle, self.plan(action, **options))
            first.notices += notice_of_call(self.bundle, action, options, first)
            return first

    def job(self, job_id: str, results_root: str | os.PathLike[str] | None = None) -> Job:
        """The job with this id, or the only one whose id starts with it.

        Raises:
            NotFoundError: none. UsageError: more than one.
        """
        from mae_sdk.job import open_job
        from mae_sdk.jobs.root import Root

        root = Root(results_root)
        return open_job(root, root.resolve(job_id))

    def jobs(
        self,
        results_root: str | os.PathLike[str] | None = None,
        *,
        all: bool = False,
        state: str | None = None,
        **unknown: Any,
    ) -> list[Job]:
        """Every job of a results root, newest first; AutoML trials only with `all`.

        Args:
            state: only jobs in this state: ``RUNNING``, ``COMPLETE`` …

        Raises:
            UsageError: there is no such state, or no such option.
        """
        if unknown:
            name = next(iter(unknown))
            raise UsageError(
                "no such option",
                field=name,
                got=unknown[name],
                expected="results_root, all, state",
                hint="did you mean state=?" if name in ("status", "states") else None,
            )
        from mae_sdk.job import list_jobs, observe_jobs
        from mae_sdk.jobs import records
        from mae_sdk.jobs.root import Root

        try:
            listed = list_jobs(Root(results_root), trials=all)
        except StorageError as error:
            error.field = error.field or "results_root"
            raise
        if state is None:
            return listed
        wanted = str(state).upper()
        known = (records.PENDING, records.RUNNING, *sorted(records.TERMINAL), records.UNKNOWN)
        if wanted not in known:
            raise UsageError("no such state", field="state", got=state, expected=", ".join(known))
        seen = observe_jobs(listed)
        return [
            job
            for job, one in zip(listed, seen, strict=True)
            if one is not None and one[1] == wanted
        ]

    if not TYPE_CHECKING:  # its attributes stay checked

        def __getattr__(self, name: str) -> Any:
            """What upstream's SDK calls so, answered with ours."""
            from mae_sdk.jobs.other_sdk import no_attribute

            raise no_attribute(self, name)
