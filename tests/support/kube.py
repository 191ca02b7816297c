"""An emulated API server of Kubernetes: no cluster, but the client is the real one.

It takes only manifests that the published schemas allow, strictly, and runs the command of a pod as
a process of this machine, with the variables and Secrets that its manifest names.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

VERSION = "1.33"


class Pod:
    """One pod of a Job: a process, a scratch folder and a log."""

    def __init__(
        self, home: Path, job: dict[str, Any], index: int, number: int, env: dict[str, str]
    ):
        self.index, self.name = index, f"{job['metadata']['name']}-{index}-{number}"
        self.labels = job["spec"]["template"]["metadata"]["labels"]
        self.scratch, self.log = home / self.name, home / f"{self.name}.log"
        self.scratch.mkdir()
        container = job["spec"]["template"]["spec"]["containers"][0]
        self.image = container["image"]
        self.process: subprocess.Popen[bytes] | None = None
        if self.image.startswith("missing"):
            return
        command = [sys.executable, *container["command"][1:]]
        own = {"MAE_SCRATCH": str(self.scratch), "JOB_COMPLETION_INDEX": str(index)}
        if "MASTER_ADDR" in env:
            own["MASTER_ADDR"] = "127.0.0.1"  # there is no DNS of a cluster here
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command, env={**env, **own}, stdout=log, stderr=log, cwd="/", start_new_session=True
            )

    def state(self) -> dict[str, Any]:
        if self.process is None:
            return {"waiting": {"reason": "ErrImagePull", "message": f"{self.image}: not found"}}
        return {"running": {}}


class Cluster:
    """The server and its objects.

    Attributes:
        quota: what the next creation of a Job is refused with.  down: answers 503 to everything.
        seen: every manifest that was accepted, by kind.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        self.objects: dict[tuple[str, str], dict[str, Any]] = {}
        self.pods: dict[str, list[Pod]] = {}
        self.created: list[str] = []
        self.quota: str | None = None
        self.down = False
        self.lock = threading.RLock()
        self.over = threading.Event()
        handler = type("Handler", (_Handler,), {"cluster": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.threads = [
            threading.Thread(target=self.server.serve_forever, daemon=True),
            threading.Thread(target=self._control, daemon=True),
        ]

    def __enter__(self) -> Cluster:
        for thread in self.threads:
            thread.start()
        url = f"http://127.0.0.1:{self.server.server_address[1]}"
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": url}}],
            "users": [{"name": "test", "user": {}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        }
        (self.home / "kubeconfig").write_text(json.dumps(config))
        return self

    def __exit__(self, *exc: object) -> None:
        self.over.set()
        self.server.shutdown()
        self.server.server_close()
        for name in list(self.pods):
            self.delete(name, signal.SIGKILL)

    def create(self, kind: str, body: dict[str, Any]) -> None:
        import kubernetes_validate

        kubernetes_validate.validate(body, VERSION, strict=True)
        name = body["metadata"]["name"]
        body["metadata"]["uid"] = f"uid-{name}"
        self.objects[kind, name] = body
        self.created.append(kind)
        if kind == "jobs":
            body["status"] = {}
            self.pods[name] = []
            for index in range(body["spec"]["completions"]):
                self._start(body, index)

    def _start(self, job: dict[str, Any], index: int) -> None:
        container = job["spec"]["template"]["spec"]["containers"][0]
        env = {k: v for k, v in os.environ.items() if k.startswith("AWS_") or k in _NODE}
        for source in container.get("envFrom", []):
            secret = self.objects["secrets", source["secretRef"]["name"]]
            env |= {k: base64.b64decode(v).decode() for k, v in secret["data"].items()}
        env |= {one["name"]: one["value"] for one in container["env"]}
        pods = self.pods[job["metadata"]["name"]]
        pods.append(Pod(self.home, job, index, len(pods), env))

    def _control(self) -> None:
        """What the Job controller does: pods that ended with 75 are made again."""
        while not self.over.wait(0.05):
            with self.lock:
                for name, pods in list(self.pods.items()):
                    job = self.objects.get(("jobs", name))
                    if job is not None and not job["status"].get("conditions"):
                        self._look(job, pods)

    def _look(self, job: dict[str, Any], pods: list[Pod]) -> None:
        newest = {pod.index: pod for pod in pods}
        codes = {index: pod.process and pod.process.poll() for index, pod in newest.items()}
        job["status"]["ready"] = sum(
            pod.process is not None and codes[index] is None for index, pod in newest.items()
        )
        for index, code in codes.items():
            if code == 75:
                self._start(job, index)
            elif code not in (None, 0):
                said = {"reason": "BackoffLimitExceeded", "message": f"exit code {code}"}
                job["status"]["conditions"] = [{"type": "Failed", "status": "True", **said}]
        if all(code == 0 for code in codes.values()):
            job["status"]["conditions"] = [{"type": "Complete", "status": "True"}]

    def delete(self, name: str, number: int = signal.SIGTERM) -> None:
        for pod in self.pods.pop(name, []):
            if pod.process is not None and pod.process.poll() is None:
                os.killpg(pod.process.pid, number) if number == signal.SIGKILL else (
                    pod.process.send_signal(number)
                )

    def lose(self, name: str) -> None:
        """A node is lost with its pod; the pod is made again on another, without its folder."""
        with self.lock:
            pod = self.pods[name][-1]
            assert pod.process is not None
            os.killpg(pod.process.pid, signal.SIGKILL)
            pod.process.wait()
            shutil.rmtree(pod.scratch)
            self._start(self.objects["jobs", name], pod.index)


_NODE = ("PATH", "PYTHONPATH", "HOME", "OMP_NUM_THREADS")


class _Handler(BaseHTTPRequestHandler):
    cluster: Cluster

    def log_message(self, *arguments: Any) -> None:
        pass

    def answer(self, code: int, body: Any) -> None:
        data = json.dumps(body).encode() if not isinstance(body, str) else body.encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def refuse(self, code: int, said: str) -> None:
        self.answer(code, {"kind": "Status", "code": code, "message": said})

    def serve(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        path, _, query = self.path.partition("?")
        words = path.strip("/").split("/")
        if self.cluster.down:
            return self.refuse(503, "the server is shutting down")
        if words[-1] == "nodes":
            allocatable = {"nvidia.com/gpu": "8", "cpu": "64"}
            node = {"metadata": {"name": "n1"}, "status": {"allocatable": allocatable}}
            return self.answer(200, {"items": [node]})
        rest = words[words.index("namespaces") + 2 :]
        kind, name = rest[0], rest[1] if len(rest) > 1 else None
        with self.cluster.lock:
            if kind == "pods":
                return self.of_pods(rest, query)
            return self.of_objects(kind, name, body)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = serve

    def of_pods(self, rest: list[str], query: str) -> None:
        pods = [pod for pods in self.cluster.pods.values() for pod in pods]
        if rest[-1] == "log":
            (pod,) = [pod for pod in pods if pod.name == rest[1]]
            return self.answer(200, pod.log.read_text())
        items = []
        for pod in pods:
            status = {"name": "runner", "image": pod.image, "imageID": "", "ready": True}
            status |= {"restartCount": 0, "state": pod.state()}
            meta = {"name": pod.name, "labels": pod.labels}
            items.append({"metadata": meta, "status": {"containerStatuses": [status]}})
        return self.answer(200, {"items": items})

    def of_objects(self, kind: str, name: str | None, body: Any) -> None:
        cluster = self.cluster
        if self.command == "GET":
            found = [one for (other, _), one in cluster.objects.items() if other == kind]
            return self.answer(200, {"items": found})
        if self.command == "POST":
            if (kind, body["metadata"]["name"]) in cluster.objects:
                return self.refuse(409, "already exists")
            if kind == "jobs" and cluster.quota:
                return self.refuse(403, cluster.quota)
            try:
                cluster.create(kind, body)
            except Exception as error:
                return self.refuse(422, f"{type(error).__name__}: {error}"[:500])
            return self.answer(201, body)
        if (kind, name) not in cluster.objects or name is None:
            return self.refuse(404, "not found")
        if self.command == "DELETE":
            cluster.objects.pop((kind, name))
            cluster.delete(name)
        elif self.command == "PATCH":
            cluster.objects[kind, name]["metadata"] |= body["metadata"]
        else:
            cluster.objects[kind, name] = body
        return self.answer(200, body or {})


def wait_for_exit(cluster: Cluster, seconds: float = 30.0) -> None:
    """Wait until no pod runs any more."""
    deadline = time.monotonic() + seconds
    while any(
        pod.process and pod.process.poll() is None for pods in cluster.pods.values() for pod in pods
    ):
        assert time.monotonic() < deadline
        time.sleep(0.05)
