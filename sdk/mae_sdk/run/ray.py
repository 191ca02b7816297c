"""The platform ``ray``: the jobs API of a Ray cluster starts the supervisor as an entrypoint.

The address is the one of the dashboard; KubeRay's head service is one too. Results root and data
are folders that all nodes see. Several nodes are one job: its supervisor, which takes part in
nothing itself, holds a placement group of one bundle a node and starts the ranks of each there.

Ray stops a job three seconds after it was told to. So a running job is canceled by the request in
its folder, which its supervisor sees, and `stop_job` is for one that waits.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mae_skill.errors import DependencyError, StorageError, UsageError

from mae_sdk.jobs import records
from mae_sdk.jobs.records import JobRecord
from mae_sdk.run.options import Option
from mae_sdk.run.platform import (
    EngineState,
    Polled,
    Reference,
    Resources,
    attempt_name,
    forgotten_by,
    with_python,
)

_VARIABLE = "RAY_API_SERVER_ADDRESS"
_ENVIRONMENT = threading.Lock()
_HOW = "start the cluster (`ray start --head`), and name the address of its dashboard"
_STATES = {
    "PENDING": EngineState(records.PENDING),
    "RUNNING": EngineState(records.RUNNING),
    "STOPPED": EngineState(records.CANCELED, "it was stopped in Ray", "signal"),
}


_CANCELED = EngineState(records.CANCELED, "it was canceled while it waited", "signal")
"""Ray lets a job that waits wait on; started later, its supervisor finds the end and leaves."""


def _is_unwanted(job_dir: Path) -> bool:
    return (job_dir / records.CANCEL_NAME).exists()


class RayPlatform(Polled):
    """Jobs of a Ray cluster, through the address of its dashboard."""

    about = "a Ray cluster (KubeRay too), through its jobs API"
    how = _HOW
    options = {  # noqa: RUF012  # as the contract declares it
        "address": Option(
            "address of the dashboard: http://head:8265; default: RAY_API_SERVER_ADDRESS"
        ),
        "cpus": Option(
            "CPUs that Ray sets aside for a job, and for each of its nodes", float, 1.0, least=0
        ),
        "resources": Option("further resources of Ray that a job takes: name: amount", dict),
        "python": Option("the Python of the nodes; default: the caller's"),
    }

    def submit(self, job_dir: Path, record: JobRecord, env: Mapping[str, str]) -> Reference:
        """Hand the supervisor to the jobs API; a name that it knows already is the same job."""
        self.ask_again()
        settings, launch = record.get("platform_options") or {}, record["launch"]
        name = attempt_name(job_dir, record)
        address = _address(settings, record)
        python = settings.get("python") or sys.executable
        several = int(launch.get("nodes") or 1) > 1
        idle = several or record.get("kind") == "automl"  # computes nothing itself
        custom = {key: float(value) for key, value in settings.get("resources", {}).items()}
        variables = {**env, _VARIABLE: address, "RAY_USAGE_STATS_ENABLED": "0"}
        with _client(address) as client:
            try:
                client.submit_job(
                    entrypoint=shlex.join([python, "-m", "mae_sdk.run.supervisor", str(job_dir)]),
                    submission_id=name,
                    runtime_env={"env_vars": variables},
                    metadata={"mae_job": record["id"]},
                    entrypoint_num_cpus=0 if idle else settings.get("cpus", 1.0),
                    entrypoint_num_gpus=0 if idle else int(launch.get("device_count") or 0),
                    entrypoint_resources=None if idle else custom or None,
                )
            except RuntimeError as error:
                if "already exists" not in str(error):
                    raise _refused(error) from error
        return {"handle": {"job": name, "address": address}}

    def poll(self, jobs: Sequence[tuple[Path, JobRecord]]) -> list[EngineState]:
        """By one list of all jobs of each cluster."""
        handles = [_handle(record) for _, record in jobs]
        found: dict[tuple[str, str], EngineState] = {}
        for address in {handle["address"] for handle in handles}:
            with _client(address) as client:
                found |= {
                    (address, str(job.submission_id)): _state(job) for job in client.list_jobs()
                }
        gone = forgotten_by("the Ray cluster")
        states = [found.get((handle["address"], handle["job"]), gone) for handle in handles]
        return [
            _CANCELED if seen.state == records.PENDING and _is_unwanted(job_dir) else seen
            for (job_dir, _), seen in zip(jobs, states, strict=True)
        ]

    def cancel(self, job_dir: Path, record: JobRecord) -> None:
        """Stop a job that waits; one that runs sees the request in its folder."""
        self.ask_again()
        handle, attempt = _handle(record), records.last_attempt(record)
        if _is_unwanted(job_dir) and attempt["state"] == records.RUNNING:
            (seen,) = self.state([(job_dir, record)])
            if seen.state == records.RUNNING:
                return
        with _client(handle["address"]) as client, contextlib.suppress(RuntimeError):
            client.stop_job(handle["job"])

    def resources(self, options: Mapping[str, Any]) -> Resources:
        """What the largest node of the cluster has."""
        import requests

        address = _address(options)
        with _client(address):
            nodes = requests.get(f"{address}/nodes?view=summary", timeout=30).json()
        try:
            totals = [
                (node.get("raylet") or {}).get("resourcesTotal") or {}
                for node in nodes["data"]["summary"]
                if (node.get("raylet") or {}).get("state") == "ALIVE"
            ]
        except (KeyError, TypeError, AttributeError):
            shown = ValueError("it answers without a list of nodes")
            raise _no_dashboard(address, shown) from None
        if not totals:
            raise UsageError("the cluster has no node", field="platform", got=address)
        _check_size(options, totals)
        most = max(totals, key=lambda total: (total.get("GPU", 0), total.get("CPU", 0)))
        names = [key.partition(":")[2] for key in most if key.startswith("accelerator_type:")]
        gpus = int(most.get("GPU", 0))
        return Resources(
            gpus=gpus,
            device=(names[0] if names else "gpu") if gpus else "cpu",
            cores=int(most.get("CPU", 0)),
            memory_mb=int(most.get("memory", 0) / 2**20) or None,
            nodes=len(totals),
            where="the largest node of the Ray cluster",
        )

    def logs(self, job_dir: Path, record: JobRecord) -> str:
        """What Ray has kept of the output of the supervisor."""
        handle = _handle(record)
        with _client(handle["address"]) as client:
            try:
                return str(client.get_job_logs(handle["job"]))
            except RuntimeError:
                return ""

    def wrap(
        self, command: Sequence[str], record: JobRecord, environment: Mapping[str, str]
    ) -> tuple[list[str], int]:
        """The command, and where there are several nodes once on each."""
        settings, launch = record.get("platform_options") or {}, record["launch"]
        words = with_python(command, settings.get("python"))
        processes = int(launch.get("processes") or 1)
        nodes = int(launch.get("nodes") or 1)
        if nodes == 1:
            return words, processes
        gpus = int(launch.get("device_count") or 0)
        each = [str(nodes), str(processes), str(gpus), str(settings.get("cpus", 1.0))]
        return [sys.executable, "-m", "mae_sdk.run.nodes", "ray", *each, "--", *words], 1


def _check_size(settings: Mapping[str, Any], totals: Sequence[Mapping[str, Any]]) -> None:
    """Refuse more than any node has: Ray lets such a job wait for ever.

    Args:
        totals: resource → amount, of each node.

    Raises:
        UsageError: no node has so much.
    """
    asked = {"CPU": ("cpus", settings.get("cpus"))}
    asked |= {name: ("resources", v) for name, v in (settings.get("resources") or {}).items()}
    for resource, (option, value) in asked.items():
        most = max(float(total.get(resource, 0)) for total in totals)
        if value is not None and _amount(option, value) > most:
            raise UsageError(
                f"no node of the cluster has so much {resource}, and the job would wait for ever",
                field=f"platform_options.{option}",
                got=value,
                expected=f"at most {most:g}, as the largest node",
                hint="`ray status` lists what there is",
            )


def _amount(option: str, value: Any) -> float:
    try:
        return float(value)
    except ValueError:
        raise UsageError(
            "not an amount", field=f"platform_options.{option}", got=value, expected="a number"
        ) from None


def _address(settings: Mapping[str, Any], record: JobRecord | None = None) -> str:
    """The dashboard's address; without one, that of the cluster that ran an earlier attempt.

    Raises:
        UsageError: none is named, or it is none of HTTP.
    """
    named = settings.get("address") or os.environ.get(_VARIABLE)
    for attempt in reversed(record["attempts"] if record else []):
        named = named or (attempt.get("handle") or {}).get("address")
    if not named:
        raise UsageError(
            "no address of a Ray cluster",
            field="platform_options.address",
            expected="the address of its dashboard, http://HOST:8265",
            hint=_HOW,
        )
    address = str(named).rstrip("/")
    address = address if "://" in address else f"http://{address}"
    if urlsplit(address).scheme not in ("http", "https"):  # Ray takes others for names of modules
        raise UsageError(
            "this is no address of a dashboard",
            field="platform_options.address",
            got=str(named),
            expected="http://HOST:8265, or https://…",
            hint=_HOW,
        )
    return address


def _handle(record: JobRecord) -> dict[str, Any]:
    return records.last_attempt(record).get("handle") or {"job": "", "address": ""}


@contextlib.contextmanager
def _client(address: str) -> Iterator[Any]:
    """The client of the jobs API.

    Raises:
        DependencyError: Ray is not installed.  StorageError: the cluster does not answer.
        UsageError: what answers is no dashboard that this client can use.
    """
    try:
        import requests
        from ray.job_submission import JobSubmissionClient
    except ImportError as error:
        raise DependencyError(
            "the platform ray needs the package ray",
            field="platform",
            got=str(error),
            hint="pip install 'mae-skill[ray]'",
        ) from None
    try:
        with _only(address):
            client = _connected(JobSubmissionClient, address)
        yield client
    except (ConnectionError, requests.RequestException, OSError) as error:
        raise StorageError(
            f"the Ray cluster does not answer: {str(error).splitlines()[0][:200]}",
            field="platform_options.address",
            got=address,
            hint=_HOW,
        ) from None


def _connected(client: Any, address: str) -> Any:
    """A client of Ray, which looks at the cluster's version at once and raises what it likes.

    Raises:
        OSError: the cluster does not answer.  UsageError: anything else.
    """
    try:
        return client(address)
    except OSError:  # of `requests` too
        raise
    except Exception as error:
        raise _no_dashboard(address, error) from error


def _no_dashboard(address: str, error: Exception) -> UsageError:
    said = " ".join(str(error).split()) or type(error).__name__
    return UsageError(
        f"this is no dashboard that Ray's client can use: {said[:300]}",
        field="platform_options.address",
        got=address,
        expected="the address of the dashboard of a Ray cluster, http://HOST:8265",
        hint=_HOW,
    )


@contextlib.contextmanager
def _only(address: str) -> Iterator[None]:
    """Ray takes an address from the environment before the one that it is given."""
    with _ENVIRONMENT:
        before = os.environ.get(_VARIABLE)
        os.environ[_VARIABLE] = address
        try:
            yield
        finally:
            os.environ.pop(_VARIABLE)
            if before is not None:
                os.environ[_VARIABLE] = before


def _refused(error: RuntimeError) -> UsageError:
    said = " ".join(str(error).split())
    return UsageError(f"Ray did not take the job: {said[-300:]}", field="platform", got="ray")


def _state(job: Any) -> EngineState:
    word, said = str(job.status.value), " ".join((job.message or "").split())
    if word == "PENDING" and said:
        return EngineState(records.PENDING, f"Ray: {said[:200]}")
    if word in _STATES:
        return _STATES[word]
    return EngineState(records.ERROR, f"its supervisor is gone; Ray says {word}: {said[:200]}")
