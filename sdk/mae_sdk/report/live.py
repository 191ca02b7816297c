"""``mae report --serve``: the jobs of a results root, live, for this machine alone.

It listens on loopback. Whoever opens a page must have the token that the command prints: it is in
the first address, and in a cookie from then on. Requests that name another host are refused, so
that no page of the web reaches it under a name of its own. Nothing can be changed through it.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Callable
from dataclasses import fields
from http import HTTPStatus
from http.cookies import CookieError, SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, quote, urlencode, urlsplit

from mae_skill.errors import MaeError, UsageError
from markupsafe import Markup

from mae_sdk import answers
from mae_sdk.job import Job, list_jobs, open_job
from mae_sdk.jobs.root import Root
from mae_sdk.report import page, search
from mae_sdk.report.blocks import Link
from mae_sdk.report.chain import render_chain
from mae_sdk.report.compare import render_compare
from mae_sdk.report.facts import facts_of, parents
from mae_sdk.report.markup import number

HOST = "127.0.0.1"
COOKIE = "mae_report"
REFRESH_SECONDS = 5
_FILTERS = ("state", "action", "stage", "arch", "metric")
_HEADS = {"id": "job", "created": "created (UTC)", "judged_on": "judged on"}


class Site:
    """The pages of a results root."""

    def __init__(self, root: Root) -> None:
        self.root = root
        self._known: answers.Known = {}

    def answer(self, path: str, query: dict[str, str]) -> str:
        """The page at a path.

        Raises:
            NotFoundError, UsageError, DataError: there is no such page or job.
        """
        parts = [part for part in path.split("/") if part]
        if not parts:
            return self.jobs(query)
        if parts == ["compare"]:
            if not (query.get("a") and query.get("b")):
                raise UsageError("Choose a job as A and another one as B to compare them.")
            chosen = [self._job(query[name]) for name in ("a", "b")]
            if chosen[0].id == chosen[1].id:
                raise UsageError("A and B are the same job: choose another one as B.")
            return render_compare(*(facts_of(job) for job in chosen))
        job = self._job(parts[1] if len(parts) > 1 and parts[0] == "job" else "")
        if parts[2:] == ["chain"]:
            return render_chain(job, home="/")
        facts = facts_of(job)
        others = [*(one.id for one in parents(job)), *search.trials(facts)]
        links = {name: f"/job/{quote(name)}" for name in others}
        chain = f"/job/{quote(job.id)}/chain"
        return page.render(facts, links, refresh=REFRESH_SECONDS, home="/", whole=chain)

    def _job(self, name: str) -> Job:
        return open_job(self.root, self.root.resolve(name))

    def jobs(self, query: dict[str, str]) -> str:
        """The list, filtered and sorted as the query says."""
        trials = query.get("trials") == "yes"
        known = {one.name for one in fields(answers.JobFilter)}
        words = {name: text.strip() for name, text in query.items()}
        given = {k: v for k, v in words.items() if k in known and v and k != "reverse"}
        if given.get("sort") not in answers.JOB_COLUMNS:
            given.pop("sort", None)
        only = answers.JobFilter(**given, reverse=query.get("reverse") == "yes")
        listed = list_jobs(self.root, trials=trials)
        document = answers.jobs(listed, limit=300, only=only, known=self._known)
        rows = document["jobs"]
        heads = []
        for name in answers.JOB_COLUMNS:
            turned = name == only.sort and not only.reverse
            more = {**query, "sort": name, "reverse": "yes" if turned else ""}
            target = "/?" + urlencode({k: v for k, v in more.items() if v})
            down = (name == "created") != only.reverse
            way = "none" if name != only.sort else "descending" if down else "ascending"
            if name == "best" and way != "none":  # in some groups up, in others down
                way = "other"
            shown = _HEADS.get(name, name)
            heads.append({"name": shown, "target": target, "way": way, "reverse": only.reverse})
        nonce = secrets.token_urlsafe(16)
        return page.fill(
            "jobs.html.j2",
            f"Jobs of {self.root.url}",
            intervals=False,
            root=self.root.url,
            groups=_groups(rows, only.sort),
            heads=heads,
            columns=answers.JOB_COLUMNS,
            words={name: _HEADS.get(name, name) for name in answers.JOB_COLUMNS},
            filters={name: query.get(name, "") for name in _FILTERS},
            trials=trials,
            sort=only.sort,
            reverse=only.reverse,
            total="1 job" if document["total"] == 1 else f"{document['total']:,} jobs",
            more=document["total"] - len(rows),
            unreadable=document.get("unreadable", []),
            nonce=nonce,
            seconds=REFRESH_SECONDS,
            script_policy=f"; script-src 'nonce-{nonce}'; connect-src 'self'; form-action 'self'",
        )


def _groups(rows: list[dict[str, Any]], sort: str) -> list[dict[str, Any]]:
    """The rows under a title each: by their best figure, those of one metric on one set of images;
    else all, under none."""
    found: list[dict[str, Any]] = []
    for row in rows:
        title = answers.rank_of(row) if sort == "best" else ""
        # One place may have held other images by then.
        images = row["images_key"] if title else None
        if not found or (found[-1]["title"], found[-1]["images"]) != (title, images):
            found.append({"title": title, "images": images, "rows": []})
        found[-1]["rows"].append(_shown(row))
    return found


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    made = {name: "–" if value is None else value for name, value in row.items()}
    made["id"] = Link(row["id"], f"/job/{quote(row['id'])}")
    made["name"] = row["id"]
    known = "" if row["best"] is None and row["doubts"] else number(row["best"])
    made["best"] = known + answers.in_doubt(row)
    made["judged_on"] = answers.near(row["judged_on"]) if row["judged_on"] else "–"
    made["created"] = str(row["created"] or "–")[:19].replace("T", " ")
    if row.get("parent"):
        made["parent"] = Link(row["parent"], f"/job/{quote(row['parent'])}")
    return made


class Server(ThreadingHTTPServer):
    """The server; `address` is the first page with the token."""

    daemon_threads = True

    def __init__(self, root: Root, port: int = 0) -> None:
        self.site, self.token = Site(root), secrets.token_urlsafe(24)
        super().__init__((HOST, port), Handler)

    @property
    def address(self) -> str:
        return f"http://{HOST}:{self.server_port}/open/{self.token}"


class Handler(BaseHTTPRequestHandler):
    """One request; only ``GET`` and ``HEAD`` are answered."""

    server: Server
    protocol_version = "HTTP/1.1"
    timeout = 30

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        query = {name: values[-1] for name, values in parse_qs(url.query).items()}
        if not self._is_local():
            self._send(HTTPStatus.FORBIDDEN, _message("This page answers to loopback names only."))
            return
        first, _, token = url.path.strip("/").partition("/")
        if first == "open" and self._is_token(token):
            # The address that stays in the browser's history holds no token.
            cookie = f"{self._cookie}={token}; HttpOnly; SameSite=Strict; Path=/"
            self._send(HTTPStatus.SEE_OTHER, "", **{"Location": "/", "Set-Cookie": cookie})
            return
        if not self._is_token(self._cookie_value()):
            text = "Open the address that mae report --serve has printed: it holds the token."
            self._send(HTTPStatus.UNAUTHORIZED, _message(text))
            return
        self._page(lambda: self.server.site.answer(url.path, query))

    do_HEAD = do_GET

    def _page(self, make: Callable[[], str]) -> None:
        try:
            self._send(HTTPStatus.OK, make())
        except MaeError as error:
            self._send(HTTPStatus.NOT_FOUND, _message(error.message))

    @property
    def _cookie(self) -> str:
        # Cookies do not tell ports apart, and two of these servers may run.
        return f"{COOKIE}_{self.server.server_port}"

    def _cookie_value(self) -> str:
        try:
            jar = SimpleCookie(self.headers.get("Cookie", ""))
        except CookieError:
            return ""
        held = jar.get(self._cookie)
        return held.value if held is not None else ""

    def _is_token(self, text: str) -> bool:
        return hmac.compare_digest(text.encode(), self.server.token.encode())

    def _is_local(self) -> bool:
        port = self.server.server_port
        return self.headers.get("Host") in (f"{HOST}:{port}", f"localhost:{port}")

    def _send(self, status: HTTPStatus, text: str, **headers: str) -> None:
        content = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("X-Frame-Options", "DENY")
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing: a request line would hold the token."""


def _message(text: str) -> str:
    return page.fill("message.html.j2", "mae report", intervals=False, text=text, home=Markup("/"))
