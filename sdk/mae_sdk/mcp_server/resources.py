"""The files of jobs as MCP resources: ``mae://job/ID/PATH``, and those that are worth a look.

A resource is read as `Job.read` reads: inside the job's folder alone, wherever that is. Texts lose
their secrets, as everything does that is shown; what is too large is cut or refused with its size.
"""

from __future__ import annotations

import mimetypes
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, quote, unquote, urlencode, urlsplit

from mae_skill.errors import NotFoundError, UsageError

if TYPE_CHECKING:
    from mae_sdk.job import Job
    from mae_sdk.skill import Skill

TEMPLATE = "mae://job/{job_id}/{path}"

MAX_LISTED = 30
"""Jobs whose files are listed, the newest."""
MAX_TEXT = 256 << 10
"""Bytes of a text: of a longer one the end is given, which is what is new in a log."""
MAX_PICTURE = 4 << 20

_ALWAYS = ("job.json", "spec.yaml", "status.json", "log.txt")
_TEXTS = frozenset([".json", ".yaml", ".txt", ".csv", ".md", ".jsonl"])
_PICTURES = frozenset([".png", ".jpg", ".jpeg"])
MAX_FILES = 40
"""Files of one job that are listed."""


def uri_of(job_id: str, path: str, root: str | None = None) -> str:
    """The URI of a file of a job."""
    place = f"mae://job/{quote(job_id)}/{quote(path)}"
    return place if root is None else f"{place}?{urlencode({'results_root': root})}"


def listed(skill: Skill) -> list[dict[str, Any]]:
    """The files of the newest jobs of the default results root: ``uri, name, mime, size``."""
    found = []
    for job in skill.jobs()[:MAX_LISTED]:
        for path in _files(job):
            place = job.folder / path
            size = place.stat().st_size if place.is_file() else None
            row = {"uri": uri_of(job.id, path), "name": f"{job.id}/{path}", "mime": _mime(path)}
            found.append({**row, "size": size})
    return found


def _files(job: Job) -> list[str]:
    """The files of a job that a person or an agent would look at."""
    if not job.folder.is_dir():  # behind a URL: those that every job has
        return list(_ALWAYS)
    here = sorted(path for path in job.folder.rglob("*") if path.is_file())
    names = [path.relative_to(job.folder).as_posix() for path in here]
    shown = [name for name in names if Path(name).suffix in _TEXTS | _PICTURES]
    first = [name for name in _ALWAYS if name in shown]
    return [*first, *(name for name in shown if name not in first)][:MAX_FILES]


def read(skill: Skill, uri: str) -> dict[str, Any]:
    """One resource: ``uri, mime`` and ``text`` or ``blob`` (bytes).

    Raises:
        UsageError: it is no such URI, leads out of the job's folder, is no text and no picture, or
            too large.
        NotFoundError: there is no such job or file.
    """
    from mae_sdk.jobs.secrets import known, redact

    parts = urlsplit(uri)
    job_id, _, path = unquote(parts.path).lstrip("/").partition("/")
    if parts.scheme != "mae" or parts.netloc != "job" or not job_id or not path:
        raise UsageError("not a resource of a job", field="uri", got=uri[:400], expected=TEMPLATE)
    root = parse_qs(parts.query).get("results_root", [None])[0]
    job = skill.job(job_id, results_root=root)
    mime = _mime(path)
    if Path(path).suffix in _PICTURES:
        return {"uri": uri, "mime": mime, "blob": _picture(job, path)}
    if Path(path).suffix not in _TEXTS:
        raise UsageError(
            "not a text or picture that can be shown",
            field="uri",
            got=path,
            expected=", ".join(sorted(_TEXTS | _PICTURES)),
            hint=f"it is the file {job.folder / path}",
        )
    text = redact(job.read(path), known())
    if len(text) > MAX_TEXT:
        text = f"… {len(text) - MAX_TEXT} earlier characters\n{text[-MAX_TEXT:]}"
    return {"uri": uri, "mime": mime, "text": text}


def _picture(job: Job, path: str) -> bytes:
    place = (job.folder / path).resolve()
    if job.folder.resolve() not in place.parents:
        raise UsageError("the path leads out of the job's folder", field="uri", got=path)
    if not place.is_file():
        raise NotFoundError("the job has no such file here", field="uri", got=path)
    size = place.stat().st_size
    if size > MAX_PICTURE:
        raise UsageError(
            "the picture is too large", field="uri", got=f"{size} bytes", expected=f"{MAX_PICTURE}"
        )
    return place.read_bytes()


def _mime(path: str) -> str:
    if Path(path).suffix in (".yaml", ".jsonl", ".txt"):
        return "text/plain"
    return mimetypes.guess_type(path)[0] or "text/plain"
