"""The platform ``kubernetes``: a Job of the cluster, through the official client.

The folder of a job is behind a URL (``--results-root s3://…``): a pod brings it, runs its
supervisor and copies results back as they come, so no volume is needed. Several nodes are an
indexed Job with a headless service, whose first pod is the supervisor. What the job is given in its
environment is a Secret of its own, which goes with the Job; secrets of the cluster are named.
"""

from __future__ import annotations

import base64
import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from mae_skill.errors import DependencyError, MaeError, StorageError, UsageError

from mae_sdk.jobs import records
from mae_sdk.jobs.records import JobRecord
from mae_sdk.run.options import IMAGE, Option
from mae_sdk.run.platform import (
    EngineState,
    Polled,
    Reference,
    Resources,
    attempt_name,
    forgotten_by,
)
from mae_sdk.run.process_group import GRACE_SECONDS, PREEMPTED_EXIT

_LABEL = "mae.job"
_PORT = 29500
_HOW = (
    "name a context of your kubeconfig: --platform-option context=NAME; `kubectl get jobs` tries it"
)
_NO_CLUSTER = "no cluster is named"
_NAME = (
    r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?",
    "a name as Kubernetes takes it: small letters, digits, - and .",
)
_SIZE = (r"[1-9]\d*(\.\d+)?([KMGT]i|[kMGT])?", "a size, such as 8Gi")
_CPUS = (r"[1-9]\d*m?|\d+\.\d+", "a number of CPUs, such as 8 or 500m")
_NO_START = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "CreateContainerConfigError")


class KubernetesPlatform(Polled):
    """Jobs of a Kubernetes cluster."""

    about = "a Kubernetes cluster, as Jobs"
    apart = True
    how = _HOW
    starts_again = True
    options = {  # noqa: RUF012  # as the contract declares it
        "image": Option("image of the runner; see docker/README.md", form=IMAGE),
        "namespace": Option("namespace of the Jobs", str, "default", form=_NAME),
        "context": Option("context of the kubeconfig; default: the current one, or the pod's own"),
        "secrets": Option("Secrets whose entries become variables of the job", list, form=_NAME),
        "service_account": Option("service account of the pods", form=_NAME),
        "pull_secrets": Option("Secrets to pull the image with", list, form=_NAME),
        "node_selector": Option("labels that a node must have: {name: value}", dict),
        "claims": Option("volume claims and where they are mounted: {claim: /path}", dict),
        "gpu_resource": Option("what a GPU is called", str, "nvidia.com/gpu"),
        "cpus": Option("CPUs of a pod", form=_CPUS),
        "memory": Option("main memory of a pod, such as 64Gi", form=_SIZE),
        "shm_size": Option("shared memory, for the workers of the loader", str, "8Gi", form=_SIZE),
        "scratch_size": Option("room on the node's disk for checkpoints on their way", form=_SIZE),
        "python": Option("the Python of the image", str, "python3"),
    }

    def submit(self, job_dir: Path, record: JobRecord, env: Mapping[str, str]) -> Reference:
        """Create the Secret, the service of several nodes, and the Job; one that is there stays."""
        self.ask_again()
        settings = self.settings(record.get("platform_options") or {})
        name = attempt_name(job_dir, record)
        with _api(settings) as client:
            core, batch = client.CoreV1Api(), client.BatchV1Api()
            space = settings["namespace"]
            service, job = self.manifests(job_dir, record, settings, sorted(env))
            with _all_or_none(core, name, space):
                if env:
                    data = {key: base64.b64encode(v.encode()).decode() for key, v in env.items()}
                    secret = {**_head("v1", "Secret", name, record), "type": "Opaque", "data": data}
                    _create(
                        core.create_namespaced_secret, core.replace_namespaced_secret, space, secret
                    )
                if service is not None:
                    _create(core.create_namespaced_service, None, space, service)
                made = _create(batch.create_namespaced_job, None, space, job)
            if made is not None:  # what belongs to the Job goes with it
                owner = [
                    {
                        "apiVersion": "batch/v1",
                        "kind": "Job",
                        "name": name,
                        "uid": made.metadata.uid,
                    }
                ]
                owned = {"metadata": {"ownerReferences": owner}}
                if env:
                    core.patch_namespaced_secret(name, space, owned)
                if service is not None:
                    core.patch_namespaced_service(name, space, owned)
        return {"handle": {"job": name, "namespace": space}}

    def preview(self, job_dir: Path, record: JobRecord) -> list[dict[str, Any]]:
        """The manifests; the Secret of the job's environment with words for its values."""
        settings = self.settings(record.get("platform_options") or {})
        names = sorted(record.get("env_names") or [])
        made = [one for one in self.manifests(job_dir, record, settings, names) if one is not None]
        if names:
            head = _head("v1", "Secret", attempt_name(job_dir, record), record)
            values = {key: f"(the value of {key})" for key in names}
            made.insert(0, {**head, "type": "Opaque", "stringData": values})
        return made

    def manifests(
        self,
        job_dir: Path,
        record: JobRecord,
        settings: Mapping[str, Any],
        env_names: Sequence[str],
    ) -> tuple[dict[str, Any] | None, dict[str, Any]]:
        """The headless service of several nodes, and the Job.

        Raises:
            UsageError: no image.
        """
        _needs_image(settings)
        name, nodes = attempt_name(job_dir, record), int(record["launch"].get("nodes") or 1)
        pod = _pod(name, nodes, record, settings, bool(env_names))
        labels = _head("", "", name, record)["metadata"]["labels"]
        spec: dict[str, Any] = {
            "backoffLimit": 0,
            "completions": nodes,
            "parallelism": nodes,
            "completionMode": "Indexed" if nodes > 1 else "NonIndexed",
            # A pod that was preempted, or lost with its node, is made again and counts for nothing.
            "podFailurePolicy": {
                "rules": [
                    {
                        "action": "Ignore",
                        "onExitCodes": {"operator": "In", "values": [PREEMPTED_EXIT]},
                    },
                    {
                        "action": "Ignore",
                        "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
                    },
                ]
            },
            "template": {"metadata": {"labels": labels}, "spec": pod},
        }
        job = {**_head("batch/v1", "Job", name, record), "spec": spec}
        return (_service(name, record) if nodes > 1 else None), job

    def poll(self, jobs: Sequence[tuple[Path, JobRecord]]) -> list[EngineState]:
        """By one list of the Jobs of each namespace, and one of their pods."""
        found: dict[tuple[str, str], EngineState] = {}
        settings = [self.settings(record.get("platform_options") or {}) for _, record in jobs]
        for context, space in {(one.get("context"), one["namespace"]) for one in settings}:
            with _api({"context": context}) as client:
                ours = {"label_selector": _LABEL}
                pods = client.CoreV1Api().list_namespaced_pod(space, **ours).items
                stuck = dict(filter(None, (_stuck(pod) for pod in pods)))
                for job in client.BatchV1Api().list_namespaced_job(space, **ours).items:
                    name = job.metadata.name
                    found[space, name] = stuck.get(name) or _state(job)
        gone = forgotten_by("Kubernetes")
        return [
            found.get((one["namespace"], _name(job_dir, record)), gone)
            for one, (job_dir, record) in zip(settings, jobs, strict=True)
        ]

    def cancel(self, job_dir: Path, record: JobRecord) -> None:
        """Delete the Job; its pods get SIGTERM."""
        self.ask_again()
        settings = self.settings(record.get("platform_options") or {})
        name = _name(job_dir, record)
        with _api(settings) as client:
            try:
                client.BatchV1Api().delete_namespaced_job(
                    name, settings["namespace"], propagation_policy="Background"
                )
            except client.ApiException as error:
                if error.status != 404:
                    raise

    def resources(self, options: Mapping[str, Any]) -> Resources:
        """What the largest of the nodes that fit has; nothing is known where they are not shown."""
        _needs_image(options)
        with _api(options) as client:
            try:
                chosen = ",".join(f"{k}={v}" for k, v in options.get("node_selector", {}).items())
                nodes = client.CoreV1Api().list_node(label_selector=chosen).items
            except client.ApiException as error:
                if error.status != 403:
                    raise
                return Resources(nodes=None)
        if not nodes:
            raise UsageError(
                "no node of the cluster fits",
                field="platform_options.node_selector",
                got=dict(options.get("node_selector", {})),
            )
        key = options["gpu_resource"]
        most = max(nodes, key=lambda node: int(node.status.allocatable.get(key, 0)))
        gpus, labels = int(most.status.allocatable.get(key, 0)), most.metadata.labels or {}
        name = labels.get("nvidia.com/gpu.product", "gpu")
        where = "the largest node of the cluster that fits"
        device = name if gpus else "cpu"
        return Resources(gpus=gpus, device=device, nodes=len(nodes), where=where)

    def mounted(self, options: Mapping[str, Any]) -> list[str]:
        """Where the claims are in a pod."""
        return list((options.get("claims") or {}).values())

    def plans_without(self, error: MaeError, options: Mapping[str, Any]) -> bool:
        """Manifests need no cluster; one that was named by its context should be there."""
        unnamed = error.message.startswith(_NO_CLUSTER) and not options.get("context")
        return unnamed or isinstance(error, (DependencyError, StorageError))

    def logs(self, job_dir: Path, record: JobRecord) -> str:
        """What the pods of the Job have printed, while they are there."""
        settings = self.settings(record.get("platform_options") or {})
        space, texts = settings["namespace"], []
        with _api(settings) as client:
            core = client.CoreV1Api()
            mine = f"app.kubernetes.io/instance={_name(job_dir, record)}"
            for pod in core.list_namespaced_pod(space, label_selector=mine).items:
                with contextlib.suppress(client.ApiException):
                    texts.append(core.read_namespaced_pod_log(pod.metadata.name, space))
        return "\n".join(texts)


def _name(job_dir: Path, record: JobRecord) -> str:
    """The Job that runs the last attempt; it may have begun with an earlier one."""
    handle = records.last_attempt(record).get("handle") or {}
    return str(handle.get("job") or attempt_name(job_dir, record))


def _needs_image(settings: Mapping[str, Any]) -> None:
    if not settings.get("image"):
        raise UsageError(
            "no image is named",
            field="platform_options.image",
            expected="an image with mae-skill[train,s3] that the cluster can pull",
            hint="docker/Dockerfile makes one",
        )


def _pod(
    name: str, nodes: int, record: JobRecord, settings: Mapping[str, Any], with_secret: bool
) -> dict[str, Any]:
    """What one node runs, and what it may use.

    Args:
        with_secret: the environment of the job is in a Secret of the job's name.
    """
    mounts, volumes = _volumes(settings)
    container = _container(name, nodes, record, settings, with_secret)
    grace = int(record["launch"].get("grace_seconds") or GRACE_SECONDS)
    pod: dict[str, Any] = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": grace + 60,  # to save, and to copy what was saved
        "containers": [_given({**container, "volumeMounts": mounts})],
        "volumes": volumes,
        "nodeSelector": settings.get("node_selector"),
        "serviceAccountName": settings.get("service_account"),
        "imagePullSecrets": [{"name": one} for one in settings.get("pull_secrets", [])],
        "subdomain": name if nodes > 1 else None,
    }
    return _given(pod)


def _container(
    name: str, nodes: int, record: JobRecord, settings: Mapping[str, Any], with_secret: bool
) -> dict[str, Any]:
    launch = record["launch"]
    env = [{"name": "MAE_SCRATCH", "value": "/scratch"}]
    if nodes > 1:
        env += [
            {"name": "WORLD_SIZE", "value": str(nodes)},
            {"name": "NODE_RANK", "value": "0"},  # the supervisor's; the others count
            {"name": "MASTER_ADDR", "value": f"{name}-0.{name}"},
            {"name": "MASTER_PORT", "value": str(_PORT)},
        ]
    sources = [{"secretRef": {"name": one}} for one in settings.get("secrets", [])]
    if with_secret:
        sources.append({"secretRef": {"name": name}})

    amounts = {"cpu": settings.get("cpus"), "memory": settings.get("memory")}
    limits = {key: value for key, value in amounts.items() if value}
    if gpus := int(launch.get("device_count") or 0):
        limits[settings["gpu_resource"]] = str(gpus)
    return {
        "name": "runner",
        "image": settings["image"],
        "command": [settings["python"], "-m", "mae_sdk.run.from_url", launch["remote"]],
        "env": env,
        "envFrom": sources,
        "resources": {"limits": limits, "requests": limits},
        "ports": [{"containerPort": _PORT}] if nodes > 1 else [],
    }


def _volumes(settings: Mapping[str, Any]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Mounts and volumes: shared memory, scratch, and the claims of the settings."""
    scratch = {"sizeLimit": settings["scratch_size"]} if settings.get("scratch_size") else {}
    memory = {"medium": "Memory", "sizeLimit": settings["shm_size"]}
    volumes: list[dict[str, Any]] = [
        {"name": "shm", "emptyDir": memory},
        {"name": "scratch", "emptyDir": scratch},
    ]
    mounts = [
        {"name": "shm", "mountPath": "/dev/shm"},
        {"name": "scratch", "mountPath": "/scratch"},
    ]
    for number, (claim, path) in enumerate(settings.get("claims", {}).items()):
        mounts.append({"name": f"claim{number}", "mountPath": path})
        source = {"persistentVolumeClaim": {"claimName": claim}}
        volumes.append({"name": f"claim{number}", **source})
    return mounts, volumes


def _service(name: str, record: JobRecord) -> dict[str, Any]:
    """The headless service by which the nodes of a job find each other."""
    ports = [{"name": "ranks", "port": _PORT}]
    headless = {"clusterIP": "None", "publishNotReadyAddresses": True, "ports": ports}
    selector = {"app.kubernetes.io/instance": name}
    return {
        **_head("v1", "Service", name, record),
        "spec": {**headless, "selector": selector},
    }


def _head(version: str, kind: str, name: str, record: JobRecord) -> dict[str, Any]:
    labels = {_LABEL: record["id"][-63:], "app.kubernetes.io/instance": name}
    labels["app.kubernetes.io/managed-by"] = "mae-skill"
    return {
        "apiVersion": version,
        "kind": kind,
        "metadata": {"name": name, "labels": labels},
    }


def _given(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if value not in (None, [], {})}


@contextlib.contextmanager
def _api(settings: Mapping[str, Any]) -> Iterator[Any]:
    """The client's module, set up for the cluster of the settings.

    Raises:
        DependencyError: it is not installed.  UsageError: no such context, or refused.
        StorageError: the cluster does not answer.
    """
    try:
        import urllib3

        client: Any = import_module("kubernetes.client")
        config: Any = import_module("kubernetes.config")
    except ImportError as error:
        raise DependencyError(
            "the platform kubernetes needs the package kubernetes",
            field="platform",
            got=str(error),
            hint="pip install 'mae-skill[kubernetes]'",
        ) from None
    try:
        try:
            # By hand: the client looks into the environment only when it is loaded.
            config.load_kube_config(os.environ.get("KUBECONFIG"), context=settings.get("context"))
        except config.ConfigException:
            if settings.get("context"):
                raise
            config.load_incluster_config()
        yield client
    except config.ConfigException as error:
        raise UsageError(
            f"{_NO_CLUSTER}: {error}", field="platform_options.context", hint=_HOW
        ) from None
    except client.ApiException as error:
        raise _refused(error) from None
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise StorageError(
            f"the cluster does not answer: {str(error)[:200]}",
            field="platform",
            got="kubernetes",
            hint="try again; nothing is submitted twice",
        ) from None


def _refused(error: Any) -> MaeError:
    """The error of a request that the API server did not take."""
    said = " ".join(str(error.body or error.reason).split())[:300]
    if error.status >= 500 or error.status == 429:
        return StorageError(f"the cluster failed: {said}", field="platform", got=error.status)
    quota = "exceeded quota" in said
    hint = "try again when others have ended, or ask for a larger quota" if quota else _HOW
    if error.status == 403 and not quota:
        hint = "ask for this right, or take another namespace: `kubectl auth can-i create jobs`"
    return UsageError(
        f"Kubernetes did not take the job: {said}",
        field="platform_options.namespace" if quota or error.status in (403, 404) else "platform",
        got=error.status,
        hint=hint,
        retryable=quota,
    )


def _create(create: Any, replace: Any, space: str, body: Mapping[str, Any]) -> Any:
    """Create an object; one of that name is this attempt's own, made by a caller that was lost."""
    from kubernetes.client import ApiException

    try:
        return create(space, body)
    except ApiException as error:
        if error.status != 409:
            raise
        if replace is not None:
            return replace(body["metadata"]["name"], space, body)
        return None


@contextlib.contextmanager
def _all_or_none(core: Any, name: str, space: str) -> Iterator[None]:
    """Delete the Secret and the service of a Job that the cluster refused: nothing else would."""
    from kubernetes.client import ApiException

    try:
        yield
    except ApiException as error:
        if error.status < 500:  # otherwise the Job may be there
            for delete in (core.delete_namespaced_secret, core.delete_namespaced_service):
                with contextlib.suppress(ApiException):
                    delete(name, space)
        raise


def _stuck(pod: Any) -> tuple[str, EngineState] | None:
    """The Job of a pod whose container cannot start, and why."""
    for status in pod.status.container_statuses or []:
        waiting = status.state.waiting if status.state else None
        if waiting is not None and waiting.reason in _NO_START:
            said = f"its container cannot start: {waiting.reason}: {waiting.message or ''}"[:300]
            name = (pod.metadata.labels or {}).get("app.kubernetes.io/instance", "")
            return name, EngineState(records.ERROR, said, "dependency")
    return None


def _state(job: Any) -> EngineState:
    conditions = {one.type: one for one in job.status.conditions or [] if one.status == "True"}
    if failed := conditions.get("Failed"):
        said = f"its supervisor is gone; Kubernetes says {failed.reason}: {failed.message or ''}"
        return EngineState(records.ERROR, said[:300])
    if "Complete" in conditions:
        return EngineState(records.COMPLETE)
    return EngineState(records.RUNNING if job.status.ready else records.PENDING)
