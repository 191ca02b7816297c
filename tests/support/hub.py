"""A small stand-in for the model hub on loopback: what huggingface_hub asks of it for models, and
for the files of data sets."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote


class Hub(ThreadingHTTPServer):
    """Models and data sets by name, each one commit; `private` ones want a token, `gated` ones more
    than a token, `status` replaces all answers; `asked` keeps ``(method, path)`` of every request,
    `tokens` the authorizations that came."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.models: dict[str, dict[str, bytes]] = {}
        self.datasets: dict[str, dict[str, bytes]] = {}
        self.private: set[str] = set()
        self.gated: set[str] = set()
        self.status: int | None = None
        self.asked: list[tuple[str, str]] = []
        self.tokens: set[str] = set()
        self.created: list[dict[str, Any]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def commit_of(self, repo: str) -> str:
        files = self.datasets[repo] if repo in self.datasets else self.models[repo]
        joined = b"".join(name.encode() + data for name, data in sorted(files.items()))
        return hashlib.sha1(joined).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        pass

    def _send(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", headers.get("size", str(len(body))))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _json(self, document: Any, status: int = 200) -> None:
        self._send(status, json.dumps(document).encode(), Content_Type="application/json")

    def _begin(self) -> list[str]:
        path = unquote(self.path.partition("?")[0])
        self.server.asked.append((self.command, path))
        if token := self.headers.get("Authorization"):
            self.server.tokens.add(token)
        return path.strip("/").split("/")

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        parts = self._begin()
        if self.server.status is not None:
            self._json({"error": "as the test wants it"}, self.server.status)
            return
        if "datasets" in parts[:2]:
            self._answer_of_a_data_set(parts)
            return
        if parts[:2] == ["api", "models"]:
            repo = "/".join(parts[2:4])
            if not self._shown(repo):
                return
            names = [{"rfilename": name} for name in sorted(self.server.models[repo])]
            self._json({"id": repo, "sha": self.server.commit_of(repo), "siblings": names})
            return
        repo, name = "/".join(parts[:2]), "/".join(parts[4:])
        if not self._shown(repo):
            return
        data = self.server.models[repo].get(name)
        commit = self.server.commit_of(repo)
        if data is None:
            self._send(404, X_Error_Code="EntryNotFound", X_Repo_Commit=commit)
            return
        tag = f'"{hashlib.sha1(data).hexdigest()}"'
        self._send(200, data, ETag=tag, X_Repo_Commit=commit)

    def _answer_of_a_data_set(self, parts: list[str]) -> None:
        """``/api/datasets/ORG/NAME[/revision/R | /tree/R/PATH]``, or ``/datasets/ORG/NAME/resolve/
        R/PATH``, whole or a range of it."""
        parts = parts[1:] if parts[0] == "api" else parts
        repo, doing, path = "/".join(parts[1:3]), parts[3:4], "/".join(parts[5:])
        if not self._shown(repo):
            return
        files, commit = self.server.datasets[repo], self.server.commit_of(repo)
        if parts[4:5] and parts[4] not in ("main", commit):
            self._send(404, X_Error_Code="RevisionNotFound")
        elif doing == ["tree"]:
            self._tree(files, path)
        elif doing != ["resolve"]:
            self._json({"id": repo, "sha": commit, "siblings": []})
        elif path not in files:
            self._send(404, X_Error_Code="EntryNotFound", X_Repo_Commit=commit)
        elif wanted := self.headers.get("Range"):
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            found = files[path][int(first) : int(last) + 1]
            span = f"bytes {first}-{int(first) + len(found) - 1}/{len(files[path])}"
            self._send(206, found, Content_Range=span, X_Repo_Commit=commit)
        else:
            self._send(200, files[path], X_Repo_Commit=commit)

    def _tree(self, files: dict[str, bytes], path: str) -> None:
        """What lies in a folder, all of it below where the query says so."""
        start = f"{path}/" if path else ""
        below = {name: data for name, data in files.items() if name.startswith(start)}
        if path and not below:
            self._send(404, X_Error_Code="EntryNotFound")
            return
        everything = "recursive=true" in self.path.lower()
        folders = {name.rpartition("/")[0] for name in below}
        folders |= {str(parent) for name in folders for parent in PurePosixPath(name).parents}
        entries: list[dict[str, Any]] = [
            {"type": "directory", "path": name, "oid": "0" * 40, "size": 0}
            for name in sorted(folders - {"", "."})
            if name.startswith(start)
        ]
        entries += [
            {"type": "file", "path": name, "oid": hashlib.sha1(data).hexdigest(), "size": len(data)}
            for name, data in sorted(below.items())
        ]
        self._json([one for one in entries if everything or "/" not in one["path"][len(start) :]])

    def _shown(self, repo: str) -> bool:
        known = repo in self.server.models or repo in self.server.datasets
        if repo in self.server.gated:
            self._send(403, X_Error_Code="GatedRepo")
            return False
        hidden = repo in self.server.private and not self.headers.get("Authorization")
        if known and not hidden:
            return True
        self._send(401 if known else 404, X_Error_Code="RepoNotFound")
        return False

    def do_POST(self) -> None:
        parts = self._begin()
        body = self._body()
        if parts == ["api", "repos", "create"]:
            if not self.headers.get("Authorization"):
                self._json({"error": "Invalid username or password."}, 401)
                return
            asked = json.loads(body)
            self.server.created.append(asked)
            repo = "/".join(filter(None, (asked.get("organization"), asked["name"])))
            self.server.models.setdefault(repo, {})
            self._json({"url": f"{self.server.url}/{repo}", "name": repo, "id": "1"})
            return
        if parts == ["api", "validate-yaml"]:  # of the model card's head
            self._json({"errors": [], "warnings": []})
            return
        repo = "/".join(parts[2:4])
        if parts[4] == "preupload":
            files = json.loads(body)["files"]
            plain = {"uploadMode": "regular", "shouldIgnore": False, "oid": None}
            self._json({"files": [{"path": file["path"], **plain} for file in files]})
            return
        assert parts[4] == "commit", parts
        for line in body.splitlines():
            entry = json.loads(line)
            if entry["key"] == "file":
                value = entry["value"]
                data = base64.b64decode(value["content"])
                self.server.models[repo][value["path"]] = data
        commit = self.server.commit_of(repo)
        self._json({"commitUrl": f"{self.server.url}/{repo}/commit/{commit}", "commitOid": commit})

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        found = b""
        while size := int(self.rfile.readline().strip() or b"0", 16):
            found += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return found


@contextmanager
def serve() -> Iterator[Hub]:
    """A running stand-in, stopped in the end."""
    hub = Hub()
    thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        thread.join()
        hub.server_close()
