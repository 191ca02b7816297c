"""URLs of data and results: telling local from remote, joining, redaction, and the file system
behind one.

A root is a local path or any fsspec URL (``s3://bucket/prefix``, ``gs://…``, ``https://…``,
``memory://…``). ``file://`` counts as local. fsspec and s3fs load only when a remote URL is used.
"""

from __future__ import annotations

import os
import re
import threading
import types
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit

from mae_skill.errors import DependencyError, UsageError
from mae_skill.secret_names import is_secret_name
from mae_skill.texts import url_problem

_SCHEME = re.compile(r"^([a-zA-Z][a-zA-Z0-9+.-]+)://")
_OF_A_SIGNATURE = re.compile(r"(?i)x-amz-[a-z-]+|x-goog-[a-z-]+|expires|policy")
_NAMES_A_PERSON = re.compile(
    r"(?i)(postgres|mysql|mariadb|oracle|mssql|sqlserver|cockroach|redis|valkey|amqp|mongodb|"
    r"sftp|ssh|scp|ftp|smb|cifs|hdfs|webhdfs|ldap|smtp|imap)"
)
"""Schemes whose URLs hold the name of an account before the ``:``; elsewhere it may be the token
itself, as in ``https://TOKEN:@host`` and ``https://TOKEN@host``."""
_NAMES_A_PLACE = frozenset({"abfs", "abfss", "adl", "az", "wasb", "wasbs", "github"})
"""Schemes in which ``a@`` or ``a:b@`` is a container or a repository."""
# What a scheme's driver needs: the extra of this package that brings it, or the package itself.
_EXTRA = {
    "s3": "s3",
    "s3a": "s3",
    "http": "http",
    "https": "http",
    "sftp": "sftp",
    "ssh": "sftp",
    "gs": "gs",
    "gcs": "gs",
    "az": "az",
    "abfs": "az",
    "abfss": "az",
    "hf": "hub",
}
_PACKAGE = {
    "smb": "smbprotocol",
    "webhdfs": "requests",
    "github": "requests",
}
# What stands between :// and the first slash, where there must be something.
_HOSTED = {
    **dict.fromkeys(("s3", "s3a", "gs", "gcs"), "bucket"),
    **dict.fromkeys(("az", "abfs"), "container"),
    **dict.fromkeys(("http", "https", "ftp", "sftp", "ssh", "webhdfs", "smb"), "host"),
    "hf": "repository",
    "github": "organization and repository",
}
HUB_FORM = "hf://datasets/ORG/NAME/path, or hf://ORG/NAME/path of a model"
_HUB_KINDS = ("datasets", "models", "spaces", "buckets")
_AZURE = {"az", "abfs", "abfss"}
_GOOGLE = {"gs", "gcs"}
_LOGGERS = {
    **dict.fromkeys(_GOOGLE, ("gcsfs", "google")),
    **dict.fromkeys(_AZURE, ("adlfs", "azure")),
}
"""Loggers of a scheme's driver that repeat, at length, what is raised."""
_VARIABLES = ("AWS_", "FSSPEC_", "GOOGLE_", "GCSFS_", "STORAGE_EMULATOR_", "AZURE_", "HF_")
"""How the variables begin that drivers read when a file system is made."""

_READ_ONLY = {"http", "https", "github"}
_ARCHIVE = re.compile(
    r"\.(tar|tar\.gz|tgz|tar\.zst|tzst|tar\.xz|txz|tar\.bz2|tbz2|zip)$", re.IGNORECASE
)
_TABLE = re.compile(r"\.(parquet|arrow)$", re.IGNORECASE)

_SEALED = re.compile(r"env:(MAE_URL_SECRET_[A-Za-z0-9_]+)@")
_SEALED_URL = re.compile(rf"[a-zA-Z][a-zA-Z0-9+.-]+://{_SEALED.pattern}")
_held: dict[str, str] = {}
_filesystems: dict[tuple[Any, ...], Any] = {}
_filesystems_lock = threading.Lock()


def scheme(url: str | os.PathLike[str]) -> str | None:
    """The lower-case scheme of a remote URL; ``None`` for local paths and ``file://`` URLs."""
    match = _SCHEME.match(os.fspath(url))
    name = match.group(1).lower() if match else None
    return None if name in (None, "file", "local") else name


def _split(url: str) -> SplitResult:
    """``urlsplit``.

    Raises:
        UsageError: no URL can be written so, e.g. ``http://[::1``.
    """
    name = scheme(url)
    try:
        parts = urlsplit(url)
        if _HOSTED.get(str(name)) == "host":
            _ = parts.port  # read on demand, and refused then
    except ValueError:  # its words may hold a password
        raise UsageError(
            "this is not a URL",
            got=f"{name}://…",
            expected=f"{name}://host/path",
            hint="write the scheme, two slashes, the host, and the path",
        ) from None
    return parts


def check(url: str | os.PathLike[str]) -> None:
    """Refuse a URL that cannot name anything; a path passes.

    Raises:
        UsageError: it cannot be read, or names no bucket or host, or holds keys of S3.
    """
    text = os.fspath(url)
    name = scheme(text)
    problem = url_problem(text)
    if problem is not None and problem[0] != "not a URL":
        raise UsageError(
            problem[0],
            got=redact(text),
            expected=problem[1],
            hint="write the scheme, two slashes, the host, and the path",
        )
    if name is None:
        return
    parts = _split(text)
    what = _HOSTED.get(name)
    if what and not parts.netloc.rpartition("@")[2] and name != "github":
        raise UsageError(
            f"the URL names no {what}",
            got=f"{name}://{parts.path}",
            expected=f"{name}://{what.split()[-1]}/path",
            hint="write it behind the two slashes",
        )
    if name == "hf":
        pieces = [piece for piece in text.partition("://")[2].split("/") if piece]
        if len(pieces) < 2 + (pieces[0] in _HUB_KINDS):
            raise UsageError(
                "the URL names no repository",
                got=text,
                expected=HUB_FORM,
                hint="write the owner and the name of the repository",
            )
    if name in ("s3", "s3a") and "@" in parts.netloc and not _SEALED.match(parts.netloc):
        raise UsageError(
            "keys do not belong in an s3:// URL",
            got=redact(text),
            expected="s3://bucket/path",
            hint="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
        )


def check_writable(url: str | os.PathLike[str], field: str) -> None:
    """Refuse a place that can only be read.

    Raises:
        UsageError: as `check`, or the scheme is read-only.
    """
    check(url)
    name = scheme(url)
    if name in _READ_ONLY:
        raise UsageError(
            f"results cannot be written to {name}://: it can only be read",
            field=field,
            got=redact(url),
            expected="a folder, or a URL that takes files, such as s3://bucket/results",
            hint="name a folder, or a store that takes files",
        )


def host(url: str | os.PathLike[str]) -> str:
    """The host, bucket or container that a URL names, without user and password."""
    text = os.fspath(url)
    return _split(text).netloc.rpartition("@")[2] if is_remote(text) else ""


def endpoint(url: str | os.PathLike[str]) -> str:
    """Whom a request for this URL asks, for a message."""
    name = scheme(url)
    if name in ("s3", "s3a"):
        found = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        return f"the store at {redact(found)}" if found else "S3"
    if name in _AZURE:
        return f"the store at {found}" if (found := _azure_account(url)) else "Azure"
    services = {
        "hf": ("HF_ENDPOINT", "the Hugging Face Hub"),
        **dict.fromkeys(_GOOGLE, ("STORAGE_EMULATOR_HOST", "Google Cloud Storage")),
    }
    if name in services:
        variable, service = services[str(name)]
        found = os.environ.get(variable)
        return f"the store at {redact(found)}" if found else service
    return {"github": "GitHub"}.get(str(name)) or host(url) or f"the store of {name}://"


def _azure_account(url: str | os.PathLike[str]) -> str | None:
    """The address of the account that a URL of Azure is asked at, without its keys."""
    place = host(url)
    if place.endswith(".core.windows.net"):
        return place
    pieces = os.environ.get("AZURE_STORAGE_CONNECTION_STRING", "").split(";")
    given = {key: value for key, _, value in (piece.partition("=") for piece in pieces)}
    if endpoint := given.get("BlobEndpoint"):
        return redact(endpoint.partition("?")[0].rstrip("/"))
    account = given.get("AccountName") or os.environ.get("AZURE_STORAGE_ACCOUNT_NAME")
    return f"{account}.blob.core.windows.net" if account else None


def place_noun(url: str | os.PathLike[str]) -> str:
    """What a URL's scheme calls that which stands before the first slash of its path."""
    return _HOSTED.get(str(scheme(url)), "bucket")


def is_remote(url: str | os.PathLike[str]) -> bool:
    """Whether ``url`` needs a network or an fsspec file system."""
    return scheme(url) is not None


def local_path(url: str | os.PathLike[str]) -> Path:
    """The path behind a local path or ``file://`` URL."""
    text = os.fspath(url)
    if is_remote(text):
        raise UsageError(
            "this URL is not local",
            got=redact(text),
            expected="a path or a file:// URL",
            hint="name a path of this machine",
        )
    match = _SCHEME.match(text)
    if match:
        return Path(text[match.end() :].removeprefix("localhost"))
    return Path(text).expanduser()


def join(root: str | os.PathLike[str], *parts: str) -> str:
    """``root`` with ``parts`` below it; parts are relative and may hold ``/``.

    Raises:
        UsageError: a part is absolute or climbs with ``..``.
    """
    text = os.fspath(root)
    for part in parts:
        pieces = PurePosixPath(part)
        if pieces.is_absolute() or ".." in pieces.parts or _SCHEME.match(part):
            raise UsageError(
                "a path below a root must be relative, without '..'",
                got=part,
                hint="write the path without a slash in front and without ..",
                expected="a relative path",
            )

    tail = "/".join(str(PurePosixPath(part)) for part in parts if part not in ("", "."))
    if not tail:
        return text
    if is_remote(text):
        base, query = (
            [*text.split("?", 1), ""][:2] if scheme(text) in ("http", "https") else (text, "")
        )
        return base.rstrip("/") + "/" + tail + (f"?{query}" if query else "")

    return str(Path(text) / tail)


def name_of(url: str | os.PathLike[str]) -> str:
    """The last component of a URL's path, without query."""
    text = os.fspath(url)
    path = _split(text).path if scheme(text) in ("http", "https") else text
    return path.rstrip("/").rsplit("/", 1)[-1]


def is_archive(url: str | os.PathLike[str]) -> bool:
    """Whether the name ends as one of the archive formats, in any case."""
    return bool(_ARCHIVE.search(name_of(url)))


def is_table(url: str | os.PathLike[str]) -> bool:
    """Whether the name ends as a table that may hold pictures, in any case."""
    return bool(_TABLE.search(name_of(url)))


def names_a_person(url_scheme: str) -> bool:
    """Whether a URL of this scheme holds the name of an account before its password."""
    return any(_NAMES_A_PERSON.match(part) for part in url_scheme.split("+"))


def userinfo_secrets(url_scheme: str, userinfo: str) -> list[str]:
    """What is secret of ``userinfo`` in ``scheme://userinfo@host``; nothing where it is sealed."""
    if not userinfo or url_scheme.lower() in _NAMES_A_PLACE:
        return []
    if _SEALED.match(f"{userinfo}@"):
        return []
    user, _, password = userinfo.partition(":")
    found = [password] if names_a_person(url_scheme) else [password, user]
    return [text for text in found if text and not text.startswith("[redacted")]


def is_secret_parameter(name: str) -> bool:
    """Whether a parameter of a URL is a credential, or a part of a signature."""
    return is_secret_name(name) and name.lower() != "policy"


def _belongs_to_access(piece: str) -> bool:
    """Whether ``name=value`` of a query says who asks, not what for."""
    name = piece.partition("=")[0]
    return is_secret_name(name) or bool(_OF_A_SIGNATURE.fullmatch(name))


def _has_credentials(url: str) -> bool:
    parts = urlsplit(url)
    userinfo = parts.netloc.rpartition("@")[0]
    return bool(userinfo_secrets(parts.scheme, userinfo)) or any(
        piece.partition("=")[2] and is_secret_parameter(piece.partition("=")[0])
        for piece in re.split("[&;]", parts.query)
    )


def redact(url: str | os.PathLike[str]) -> str:
    """The URL without user, password and signed query: fit for logs, errors and records."""
    text = os.fspath(url)
    if not is_remote(text):
        return text
    try:
        parts = urlsplit(text)
    except ValueError:  # no URL after all, such as http://[::1
        return text.rpartition("@")[2]
    netloc = parts.netloc.rsplit("@", 1)[-1]
    query = "&".join(
        piece.partition("=")[0] + "=…" if _belongs_to_access(piece) else piece
        for piece in parts.query.split("&")
    )
    return urlunsplit((parts.scheme, netloc, parts.path, query, ""))


def unsigned(url: str) -> str:
    """The URL without credentials or signature, so that two presigned URLs of one object are
    one."""
    parts = _split(url)
    query = "&".join(
        piece for piece in parts.query.split("&") if piece and not _belongs_to_access(piece)
    )
    return urlunsplit((parts.scheme, parts.netloc.rsplit("@", 1)[-1], parts.path, query, ""))


def seal(url: str) -> str:
    """The URL with ``env:NAME@`` in the place of its credentials or signature: fit for specs and
    records, and it still opens.

    This process remembers what the variable stands for; `held` gives it to a job's environment. A
    URL without credentials, or sealed already, comes back as it is.
    """
    import hashlib

    try:
        if not is_remote(url) or not _has_credentials(url) or _SEALED.match(urlsplit(url).netloc):
            return url
    except ValueError:  # it will be refused where it is opened
        return url
    plain = unsigned(url)
    name = "MAE_URL_SECRET_" + hashlib.sha256(plain.encode()).hexdigest()[:8].upper()
    _held[name] = url
    rest = urlsplit(plain)
    return urlunsplit((rest.scheme, f"env:{name}@{rest.netloc}", rest.path, rest.query, ""))


_URL_IN_TEXT = re.compile(r"""[a-zA-Z][a-zA-Z0-9+.-]+://[^\s"'<>\]\[{},]+""")


def seal_text(text: str) -> str:
    """A text, such as ``key=[url, url]``, with every URL in it sealed."""
    return _URL_IN_TEXT.sub(lambda found: seal(found[0]), text)


def held_variables() -> dict[str, str]:
    """Variable → URL, of all URLs whose credentials this process was given."""
    return dict(_held)


def seal_tree(value: Any) -> Any:
    """A copy of a spec, or of a part of one, with every URL in it sealed."""
    if isinstance(value, str):
        return seal(value)
    if isinstance(value, Mapping):
        return {key: seal_tree(item) for key, item in value.items()}
    return [seal_tree(item) for item in value] if isinstance(value, (list, tuple)) else value


def held(value: Any) -> dict[str, str]:
    """Variable → URL, of those sealed URLs in ``value`` (a spec or a part of one) whose credentials
    this process was given."""
    if isinstance(value, str):
        found = _SEALED_URL.match(value)
        return {found[1]: _held[found[1]]} if found and found[1] in _held else {}
    items = (
        value.values()
        if isinstance(value, Mapping)
        else value
        if isinstance(value, (list, tuple))
        else ()
    )
    return {name: url for item in items for name, url in held(item).items()}


def _opened(url: str) -> str:
    """The URL with its credentials put back.

    Raises:
        UsageError: the variable that holds them is not set here.
    """
    parts = _split(url)
    found = _SEALED.match(parts.netloc)
    if not found:
        return url
    secret = _held.get(found[1]) or os.environ.get(found[1])
    if not secret:
        raise UsageError(
            "the variable that holds the credentials of this URL is not set",
            got=redact(url),
            expected=f"{found[1]} in the environment",
            hint=f"export {found[1]}=<the whole URL, freshly signed>, "
            "then run the same command again",
        )

    signed = urlsplit(secret)
    return urlunsplit((parts.scheme, signed.netloc, parts.path, signed.query, ""))


def timeout_seconds() -> float:
    """Seconds without a byte after which a request counts as stalled: ``MAE_STORAGE_TIMEOUT``, else
    20."""
    return float(os.environ.get("MAE_STORAGE_TIMEOUT", "20"))


def filesystem(url: str) -> tuple[Any, str]:
    """The fsspec file system of ``url`` and the path inside it.

    What the URL says of its server (host, port, user, password) is taken from it as fsspec reads
    it. One file system is kept per process, server and credentials in the environment: rotated
    credentials are seen at the next call. Other options come from fsspec's own configuration
    (files in ``FSSPEC_CONFIG_DIR``, ``FSSPEC_*`` variables).

    Raises:
        DependencyError: the package for this scheme is missing.
        UsageError: fsspec does not know the scheme, or the URL names no server.
    """
    check(url)
    name = scheme(url) or "file"
    opened = _opened(url)
    check(opened)
    opened = name + opened[len(name) :] if is_remote(opened) else opened
    environment = tuple(sorted((k, v) for k, v in os.environ.items() if k.startswith(_VARIABLES)))
    try:
        import fsspec

        kind = fsspec.get_filesystem_class(name)
        options = _of_url(kind, opened)
        key = (os.getpid(), name, tuple(sorted(options.items())), timeout_seconds(), environment)
        with _filesystems_lock:
            fs = _filesystems.get(key)
            if fs is None:
                fs = _filesystems[key] = _make(fsspec, name, options)
    except ImportError as error:
        extra = _EXTRA.get(name)
        package = _PACKAGE.get(name, f"the fsspec driver for {name}://")
        hint = f"pip install 'mae-skill[{extra}]'" if extra else f"pip install {package}"
        raise DependencyError(
            f"reading {name}:// needs {f'the extra {extra}' if extra else package}",
            got=redact(url),
            hint=hint,
            expected="an installation that has it",
        ) from error
    except ValueError as error:
        if "not known" not in str(error).lower():
            raise
        raise UsageError(
            f"no file system for the scheme {name}://",
            got=redact(url),
            expected="a path or an fsspec URL such as s3://",
            hint="is the scheme misspelled? a path needs none",
        ) from error

    return fs, fs._strip_protocol(opened)


def _of_url(kind: Any, url: str) -> dict[str, Any]:
    """The arguments of a file system that its URL holds, percent signs decoded in user and
    password."""
    options: dict[str, Any] = dict(kind._get_kwargs_from_urls(url))
    return {
        key: unquote(value) if key in ("username", "user", "password") and value else value
        for key, value in options.items()
    }


def forget_filesystems() -> None:
    """Drop kept file systems, so that the next call reads credentials again."""
    with _filesystems_lock:
        _filesystems.clear()


def forget_connection(url: str) -> None:
    """Drop the kept connection to a server of files, so that the next call makes a new one. Stores
    and web servers are asked by separate requests, and have none."""
    name = scheme(url)
    if name in ("ftp", "sftp", "ssh", "smb"):
        with _filesystems_lock:
            for key in [key for key in _filesystems if key[1] == name]:
                del _filesystems[key]


def _make(fsspec: Any, name: str, options: dict[str, Any]) -> Any:
    seconds = timeout_seconds()
    if name in ("http", "https"):
        return fsspec.filesystem(
            name,
            skip_instance_cache=True,
            use_listings_cache=False,
            client_kwargs={"timeout": _silence(seconds)},
        )

    if name not in ("s3", "s3a"):
        if name in ("ftp", "sftp", "ssh"):
            options["timeout"] = seconds
        if name not in ("sftp", "ssh"):  # which take no option that their client does not know
            options["use_listings_cache"] = False
        if name != "memory":
            options["skip_instance_cache"] = True
        if name in _AZURE:
            options |= {"connection_timeout": min(seconds, 10.0), "read_timeout": seconds}
        if name in _GOOGLE:
            options["requests_timeout"] = _silence(seconds)
        if name == "hf":  # read now, not when the library was imported
            options["endpoint"] = os.environ.get("HF_ENDPOINT") or None
        for logger in _LOGGERS.get(name, ()):
            import logging  # not for each supervisor

            logging.getLogger(logger).setLevel(logging.CRITICAL)
        fs = fsspec.filesystem(name, **options)
        if name in _GOOGLE:
            _try_once(fs)
        if name in _AZURE:
            pipeline = getattr(fs.service_client, "_pipeline", None)
            # Its client waits for minutes between attempts of its own, and takes no word on it.
            for policy in getattr(pipeline, "_impl_policies", ()):
                if hasattr(policy, "total_retries"):
                    policy.total_retries = 0
            # The driver hands the limits above on to reads and writes alone, not to questions.
            limits = getattr(getattr(pipeline, "_transport", None), "connection_config", None)
            if limits is not None:
                limits.timeout, limits.read_timeout = min(seconds, 10.0), seconds
        return fs

    config = {
        "read_timeout": seconds,
        "connect_timeout": min(seconds, 10.0),
        "max_pool_connections": 64,
        # Retries are `storage.retry` alone: three layers of five attempts each turn one stall
        # into minutes.
        "retries": {"total_max_attempts": 1, "mode": "standard"},
        # Checksums are `storage.checksums` alone: the driver's own are of whole answers only.
        "response_checksum_validation": "when_required",
    }
    fs = fsspec.filesystem(
        "s3", skip_instance_cache=True, use_listings_cache=False, config_kwargs=config, **options
    )
    fs.retries = 1
    return fs


def _silence(seconds: float) -> Any:
    """The limit of a request of aiohttp. Its own is five minutes for a whole answer, however well
    the bytes flow; ours is on silence."""
    from aiohttp import ClientTimeout

    return ClientTimeout(total=None, sock_connect=min(seconds, 10.0), sock_read=seconds)


def _try_once(fs: Any) -> None:
    """Retries are `storage.retry` alone: the driver of Google tries six times in half a minute, and
    takes no word on it."""
    plain = getattr(getattr(type(fs), "_request", None), "__wrapped__", None)
    if plain is not None:
        fs._request = types.MethodType(plain, fs)
