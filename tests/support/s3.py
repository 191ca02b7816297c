"""Real S3 servers on a free loopback port: ``rclone serve s3`` (checks signatures, ranges,
multipart) and ``moto`` (AWS error codes)."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ACCESS_KEY = "AKIATESTACCESSKEY"
SECRET_KEY = "test-secret-that-must-never-be-written"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class LoopbackServer:
    port: int
    process: subprocess.Popen[bytes]

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def env(self) -> dict[str, str]:
        """What a client process needs."""
        return client_env(self.endpoint)

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def _start(self, command: list[str]) -> None:
        self.process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise RuntimeError(f"the server ended with {self.process.returncode}")
            with socket.socket() as probe:
                probe.settimeout(0.2)
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.05)
        raise RuntimeError("the server did not start within 30 s")

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def client_env(endpoint: str) -> dict[str, str]:
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
        "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


class S3Server(LoopbackServer):
    """``rclone serve s3`` over a local folder: its sub-folders are the buckets.

    ``etag=False`` for large objects: with ETags rclone hashes the whole object anew at every ranged
    request, which no object store does.

    >>> with S3Server(tmp_path) as server:
    ...     (tmp_path / "bucket").mkdir()
    ...     os.environ.update(server.env)
    """

    def __init__(self, root: str | Path, etag: bool = True) -> None:
        self.root = Path(root)
        self.etag = etag
        self.port = free_port()

    def bucket(self, name: str) -> Path:
        path = self.root / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def __enter__(self) -> S3Server:
        program = Path(sys.executable).parent / "rclone"
        command = [
            str(program) if program.exists() else str(shutil.which("rclone")),
            "serve",
            "s3",
            str(self.root),
        ]
        command += [
            "--addr",
            f"127.0.0.1:{self.port}",
            "--auth-key",
            f"{ACCESS_KEY},{SECRET_KEY}",
            "--config",
            os.devnull,
        ]
        # A cached listing lives for 2 ms: with 0, rclone's clean-up timer fires without end and
        # starves the requests.
        command += [
            "--etag-hash",
            "MD5" if self.etag else "",
            "--vfs-cache-mode",
            "off",
            "--dir-cache-time",
            "2ms",
            "--poll-interval",
            "0",
        ]
        self._start(command)
        return self


class MotoServer(LoopbackServer):
    """moto's S3 in a process of its own: answers with AWS's error codes; buckets are made through
    the API."""

    def __init__(self) -> None:
        self.port = free_port()

    def __enter__(self) -> MotoServer:
        command = [
            str(Path(sys.executable).parent / "moto_server"),
            "-H",
            "127.0.0.1",
            "-p",
            str(self.port),
        ]
        self._start(command)
        return self


@contextmanager
def environment(values: dict[str, str]) -> Iterator[None]:
    """Set variables for a block, then put the old ones back."""
    old = {key: os.environ.get(key) for key in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for key, value in old.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value


@contextmanager
def fresh_bucket(server: MotoServer, name: str) -> Iterator[str]:
    """The URL of an empty bucket, and the environment in which jobs write to it at once."""
    import fsspec

    bucket = f"b{abs(hash(name)) % 10**8}"
    with environment({**server.env, "MAE_SYNC_SECONDS": "0.2"}):
        fsspec.filesystem("s3", skip_instance_cache=True).mkdir(bucket)
        yield f"s3://{bucket}"
