"""Servers of Google's and Azure's object stores on loopback, and the drivers of their schemes, in
an environment of their own: neither belongs to what the other tests need."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import threading
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.support.s3 import LoopbackServer, free_port

DRIVERS = ("gcsfs>=2025.3", "adlfs>=2024.12", "gcp-storage-emulator")
ACCOUNT = "devstoreaccount1"
# The account that every Azurite has, and the whole world knows.
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


def install_drivers(home: Path) -> tuple[Path, str | None]:
    """A virtual environment with the drivers and Google's stand-in beside the packages of this one.

    Returns:
        Its folder of packages, and why they could not be installed, if they could not.
    """
    venv.create(home, with_pip=False, symlinks=True)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = home / "lib" / version / "site-packages"
    borrowed = [path for path in sys.path if path and Path(path).is_dir()]
    (packages / "borrowed.pth").write_text("\n".join(borrowed))
    command = [sys.executable, "-m", "pip", "--python", str(home / "bin/python"), "install"]
    done = subprocess.run([*command, "--quiet", *DRIVERS], capture_output=True, text=True)
    return packages, _last_line(done.stderr) if done.returncode else None


def install_azurite(home: Path) -> str | None:
    """Azurite, by npm; why it could not be installed, if it could not."""
    if not shutil.which("npm"):
        return "npm is not installed (Debian: apt-get install npm)"
    command = ["npm", "install", "--prefix", str(home), "--no-audit", "--no-fund", "azurite"]
    done = subprocess.run(command, capture_output=True, text=True)
    return f"npm: {_last_line(done.stderr)}" if done.returncode else None


def _last_line(text: str) -> str:
    return ([line for line in text.splitlines() if line.strip()] or ["it failed"])[-1]


class GoogleServer(LoopbackServer):
    """``gcp-storage-emulator``, of an environment that `install_drivers` made. It lets anybody do
    anything."""

    def __init__(self, home: Path) -> None:
        self.home, self.port = home, free_port()

    @property
    def env(self) -> dict[str, str]:
        return google_env(self.endpoint)

    def __enter__(self) -> GoogleServer:
        start = "from gcp_storage_emulator.__main__ import main; main()"
        command = [str(self.home / "bin/python"), "-c", start, "start", "--in-memory"]
        self._start([*command, "--host", "127.0.0.1", "--port", str(self.port)])
        return self


class AzureServer(LoopbackServer):
    """Azurite's blobs, from where `install_azurite` put it. It checks signatures."""

    def __init__(self, home: Path) -> None:
        self.home, self.port = home, free_port()

    @property
    def env(self) -> dict[str, str]:
        return azure_env(self.endpoint)

    def __enter__(self) -> AzureServer:
        command = [str(self.home / "node_modules/.bin/azurite-blob"), "--inMemoryPersistence"]
        command += ["--skipApiVersionCheck", "--disableTelemetry", "--silent"]
        self._start([*command, "--blobHost", "127.0.0.1", "--blobPort", str(self.port)])
        return self


def google_env(endpoint: str) -> dict[str, str]:
    return {"STORAGE_EMULATOR_HOST": endpoint}


def azure_env(endpoint: str, key: str = KEY) -> dict[str, str]:
    protocol, account = f"DefaultEndpointsProtocol={endpoint.partition(':')[0]}", ACCOUNT
    text = f"{protocol};AccountName={account};AccountKey={key};BlobEndpoint={endpoint}/{account};"
    return {"AZURE_STORAGE_CONNECTION_STRING": text}


@contextmanager
def answering(status: int, message: str) -> Iterator[str]:
    """A server that gives every request one answer, in the form of Google's; gives its address."""
    body = json.dumps({"error": {"code": status, "message": message, "errors": []}}).encode()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *words: Any) -> None:
            return

        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_PUT = do_DELETE = do_GET

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def silent() -> Iterator[str]:
    """A server that takes every connection and never says a word; gives its address."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(64)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


@contextmanager
def nobody() -> Iterator[str]:
    """An address at which nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"
