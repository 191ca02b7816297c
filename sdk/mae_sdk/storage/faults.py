"""What an exception of a storage driver means: one wording per cause, whoever asked.

botocore, aiohttp, fsspec, paramiko, ftplib and the operating system name one cause in many ways.
`translate` is the only place that reads them.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Iterator
from typing import Any

from mae_skill.errors import DataError, MaeError, NotFoundError, StorageError, UsageError

from mae_sdk.storage import urls


class StoreFault(StorageError):
    """A storage error that knows its cause.

    Attributes:
        cause: ``changed | damaged | listing | stalled | expired | denied | credentials | region |
            certificate | unreachable | exists | full | network``.
    """

    cause: str = "network"


class Missing(NotFoundError):
    """There is no such object, or no such bucket (``cause``: ``object`` or ``bucket``)."""

    cause: str = "object"


# The store's own codes, and HTTP's, by what they mean.
_EXPIRED = {
    "ExpiredToken",
    "ExpiredTokenException",
    "TokenRefreshRequired",
    "RequestExpired",
    "InvalidToken",
}
_DENIED = {
    "AccessDenied",
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "AllAccessDisabled",
    "AccountProblem",
    "NotSignedUp",
    "UnauthorizedAccess",
    "Forbidden",
    "403",
    "401",
    "407",
}
_KEYS = {"InvalidAccessKeyId", "SignatureDoesNotMatch"}
_REGION = {
    "PermanentRedirect",
    "AuthorizationHeaderMalformed",
    "IllegalLocationConstraintException",
    "IncorrectEndpoint",
    "301",
}
_ABSENT = {"NoSuchKey", "NoSuchVersion", "NotFound", "404", "410"}
_CHANGED = {"PreconditionFailed", "412", "InvalidRange", "416"}

# Exceptions, by their names: no driver is imported for its classes.
_STALLS = ("Timeout", "TimedOut")
_UNREACHABLE = {
    "EndpointConnectionError",
    "ClientConnectorError",
    "ClientConnectorDNSError",
    "ConnectionRefusedError",
    "gaierror",
    "NoValidConnectionsError",
    "ConnectError",
    "NewConnectionError",
    "NameResolutionError",
    "LocalEntryNotFoundError",
    "OfflineModeIsEnabled",
}
_UNREACHABLE_NUMBERS = {errno.ECONNREFUSED, errno.ENETUNREACH, errno.EHOSTUNREACH}
_CERTIFICATE = {"ClientConnectorCertificateError", "SSLCertVerificationError", "CertificateError"}
_CREDENTIALS = {
    "NoCredentialsError",
    "PartialCredentialsError",
    "ProfileNotFound",
    "DefaultCredentialsError",
    "MalformedError",
    "ClientAuthenticationError",
    "CredentialUnavailableError",
}
"""Where the store itself gave a code, that counts."""
_BROKEN = {"ClientPayloadError", "ContentLengthError", "IncompleteRead", "TransferEncodingError"}
"""A body that ends too early, in words of libraries that say nothing to a person."""
_NO_REPOSITORY = {"RepositoryNotFoundError", "RevisionNotFoundError"}
_CLOSED_REPOSITORY = {"GatedRepoError", "DisabledRepoError"}
_AZURE_SAYS_NONE = "unable to connect to account for"
_SET = {
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile",
    "gs": "set GOOGLE_APPLICATION_CREDENTIALS to the file of a key, or log in with gcloud",
    "az": "set AZURE_STORAGE_CONNECTION_STRING, or AZURE_STORAGE_ACCOUNT_NAME with "
    "AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN",
    "hf": "set HF_TOKEN",
}
"""How credentials are given, by the first name of a scheme."""
_FIRST = {"s3a": "s3", "gcs": "gs", "abfs": "az", "abfss": "az"}
_DENIED_NAMES = {"AuthenticationException", "BadAuthenticationType", "BadHostKeyException"}
_NO_STORE = {"ResponseParserError", "XMLParseError"}
_PACKAGES = {
    "botocore",
    "aiobotocore",
    "aiohttp",
    "s3fs",
    "fsspec",
    "urllib3",
    "requests",
    "httpx",
    "httpcore",
    "huggingface_hub",
    "paramiko",
    "ftplib",
    "smbprotocol",
    "gcsfs",
    "adlfs",
    "azure",
    "google",
}

AGAIN = "this looks temporary; run the same command again"


def translate(error: BaseException, url: str, doing: str, tries: int = 1) -> MaeError | None:
    """The storage error that an exception of a driver means; ``None`` for anything that is no
    storage fault.

    Args:
        url: what it is about, redacted in the error.
        doing: the verb of the message, e.g. ``"read"``.
        tries: how often it was tried.
    """
    if isinstance(error, MaeError):
        return error
    chain = list(_chain(error))
    names = {type(one).__name__ for one in chain}
    code = next((found for found in map(_code, chain) if found), None)
    head = f"cannot {doing} {urls.redact(url)}"

    known = (
        _of_the_call(chain, names, url)
        or _of_the_object(error, chain, names, code, url, head, doing)
        or _of_the_caller(chain, names, code, url, head)
        or _of_the_way(chain, names, url, head)
    )
    if known is not None:
        return known

    foreign = any(type(one).__module__.split(".")[0] in _PACKAGES for one in chain)
    if not foreign and not isinstance(error, (OSError, EOFError)):
        return None
    times = f" after {tries} attempts" if tries > 1 else ""
    if code:
        return fault("network", f"{head}{times}: the store answered {code}", url)
    if names & _BROKEN:
        return fault("network", f"{head}{times}: the connection broke before all bytes came", url)
    detail = f"{type(error).__name__}: {str(error)[:160]}".rstrip(": ")
    return fault("network", f"{head}{times}: {detail}", url)


def fault(
    cause: str, message: str, url: str, *, retryable: bool = True, hint: str = AGAIN
) -> StoreFault:
    """A `StoreFault` of that cause."""
    made = StoreFault(
        message,
        got=urls.redact(url),
        expected=_EXPECTED.get(cause, "a store that answers"),
        retryable=retryable,
        hint=hint or "name another place, or take away what is there",
    )
    made.cause = cause
    return made


_EXPECTED = {
    "credentials": "credentials that the store takes",
    "expired": "credentials that are still valid",
    "rights": "the right to do this there",
    "exists": "a place that nothing is at yet",
    "changed": "an object that stays as it is while it is read",
    "damaged": "bytes that have the store's checksum",
}


def changed(url: str) -> StoreFault:
    """The object is no longer the one that was looked at first."""
    return fault(
        "changed",
        f"{urls.redact(url)} changed while it was read",
        url,
        hint="run the same command again",
    )


def damaged(url: str, algorithm: str) -> StoreFault:
    """The bytes are not those of the store's checksum."""
    return fault(
        "damaged",
        f"cannot read {urls.redact(url)}: the bytes that came are not those that the store has "
        f"the {algorithm} checksum of",
        url,
        hint="run the same command again; if it stays, the object is damaged: upload it anew",
    )


def no_bucket(url: str) -> Missing:
    """There is no such bucket, container or repository."""
    noun, name = urls.place_noun(url), urls.host(url)
    hint = "check its spelling"
    if _first(url) == "s3":
        hint += "; for another store than AWS set AWS_ENDPOINT_URL"
    elif _first(url) == "az":
        hint += f"; {urls.endpoint(url)} was asked"
    elif _first(url) == "hf":
        noun, name = _repository(url)
        hint += "; one that is not public needs HF_TOKEN"
    gone = Missing(
        f"there is no {noun} {name!r}",
        got=urls.redact(url),
        hint=hint,
        expected=f"a {noun} that exists, and that these credentials may see",
    )
    gone.cause = "bucket"
    return gone


def _first(url: str) -> str:
    """The scheme, by the first of its names."""
    name = str(urls.scheme(url))
    return _FIRST.get(name, name)


def _repository(url: str) -> tuple[str, str]:
    """What a URL of the hub names: its kind, and ``ORG/NAME``, with a revision if it has one."""
    parts = url.partition("://")[2].split("/")
    kind = parts.pop(0) if parts[0] in ("datasets", "models", "spaces") else "models"
    return kind.removesuffix("s"), "/".join(parts[:2])


def as_data_error(error: MaeError, where: str) -> DataError:
    """A source that is missing, in the words of its cause."""
    if isinstance(error, Missing) and error.cause == "bucket":
        return DataError(error.message, got=where, hint=error.hint)
    return DataError(
        f"there is no data source at {where}",
        got=where,
        hint="check the path, the bucket and the spelling",
        expected="a folder, an archive or a pattern of images that is there",
    )


def _of_the_call(chain: list[BaseException], names: set[str], url: str) -> MaeError | None:
    """A URL or an endpoint that no request can be made of."""
    where = urls.redact(url)
    text = next((str(one) for one in chain if isinstance(one, ValueError)), "")
    if "Invalid endpoint" in text:
        return UsageError(
            "the address of the store, AWS_ENDPOINT_URL, is no URL",
            got=text.partition(":")[2].strip(),
            expected="http://host:port or https://host",
            hint="set AWS_ENDPOINT_URL to the address of the store, or unset it for AWS",
        )
    if "ParamValidationError" in names and "bucket" in str(chain[0]).lower():
        return UsageError(
            "the URL does not name a bucket as stores spell them",
            got=where,
            expected="s3://bucket/path: 3 to 63 lower-case letters, digits, dots and hyphens",
            hint="check the spelling of the bucket",
        )
    if names & {"HfUriError", "HFValidationError"}:
        return UsageError(
            "not a place of the hub",
            got=where,
            expected=urls.HUB_FORM,
            hint="write the owner and the name of the repository",
        )
    if names & {"InvalidURL", "InvalidUrlClientError", "NonHttpUrlClientError"}:
        return UsageError(
            "this is not a URL",
            got=where,
            expected="https://host/path",
            hint="write the scheme, two slashes, the host, and the path",
        )
    return None


def _of_the_object(
    error: BaseException,
    chain: list[BaseException],
    names: set[str],
    code: str | None,
    url: str,
    head: str,
    doing: str,
) -> MaeError | None:
    """No bucket, no object, one that exists already, one that changed."""
    where = urls.redact(url)
    if code == "NoSuchBucket" or any("bucket does not exist" in str(one) for one in chain):
        return no_bucket(url)

    if code in _CHANGED and doing != "write":
        return changed(url)

    if isinstance(error, FileExistsError) or code in {"PreconditionFailed", "412"}:
        return fault("exists", f"{head}: it exists already", url, retryable=False, hint="")

    if names & _NO_REPOSITORY:
        return no_bucket(url)
    if names & _CLOSED_REPOSITORY:
        return None

    absent = code in _ABSENT or "550" in _replies(chain)
    # fsspec's web client calls every failure "not found"; what it hides is the cause.
    hidden = error.__cause__ is not None and urls.scheme(url) in ("http", "https")
    if absent or (isinstance(error, FileNotFoundError) and not hidden):
        return Missing(
            f"{head}: there is no such file",
            got=where,
            hint="check the path, the bucket and the spelling",
            expected="a file or folder that is there",
        )
    return None


def _of_the_caller(
    chain: list[BaseException], names: set[str], code: str | None, url: str, head: str
) -> MaeError | None:
    """Credentials, rights, region: what a person must put right."""
    if code in _EXPIRED:
        urls.forget_filesystems()
        return fault(
            "expired",
            f"{head}: the credentials have expired ({code})",
            url,
            hint="renew the credentials, then run the same command again",
        )

    none = names & _CREDENTIALS and code is None
    if none or any(_AZURE_SAYS_NONE in str(one) for one in chain):
        return fault(
            "credentials",
            f"{head}: no usable credentials",
            url,
            retryable=False,
            hint=_SET.get(_first(url), "check the credentials"),
        )

    if code in _REGION:
        return fault(
            "region",
            f"{head}: the bucket is in another region, or at another endpoint ({code})",
            url,
            retryable=False,
            hint="set AWS_DEFAULT_REGION to the bucket's region, and AWS_ENDPOINT_URL "
            "for another store than AWS",
        )

    refused = any(isinstance(one, PermissionError) for one in chain) or "530" in _replies(chain)
    if code in _DENIED or names & _DENIED_NAMES or (refused and code is None):
        hint = "check the permissions of the file"
        if code in _KEYS:
            hint = "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        elif urls.scheme(url) in ("s3", "s3a"):
            hint = "check the credentials and the bucket's policy"
        elif urls.is_remote(url):
            hint = "check the credentials and the rights of the file"
        shown = code or type(chain[0]).__name__
        return fault("denied", f"{head}: access denied ({shown})", url, retryable=False, hint=hint)
    return None


def _of_the_way(
    chain: list[BaseException], names: set[str], url: str, head: str
) -> MaeError | None:
    """The network between, the machine at the other end, the disk at this one."""
    numbers = {one.errno for one in chain if isinstance(one, OSError)}
    if numbers & {errno.ENOSPC, errno.EDQUOT}:
        return fault(
            "full",
            f"{head}: the disk is full",
            url,
            retryable=False,
            hint="free space or move the folder",
        )

    if names & _CERTIFICATE:
        return fault(
            "certificate",
            f"{head}: the certificate of {urls.host(url) or 'the server'} is not trusted",
            url,
            retryable=False,
            hint="name the authority's certificate in SSL_CERT_FILE (S3: AWS_CA_BUNDLE)",
        )

    if any(
        isinstance(one, (TimeoutError, asyncio.TimeoutError))
        or any(mark in type(one).__name__ for mark in _STALLS)
        for one in chain
    ):
        said = next((str(one) for one in chain if isinstance(one, TooSlow)), "")
        return fault(
            "stalled",
            f"{head}: {said or f'no answer within {urls.timeout_seconds():g} s'}",
            url,
            hint="check the connection, or allow more seconds of silence: MAE_STORAGE_TIMEOUT",
        )

    if names & _UNREACHABLE or numbers & _UNREACHABLE_NUMBERS:
        target = urls.endpoint(url)
        return fault(
            "unreachable",
            f"{head}: {target} cannot be reached",
            url,
            hint="check the network, the name of the host and any proxy, then run it again",
        )

    if names & _NO_STORE:
        return fault(
            "network",
            f"{head}: what {urls.endpoint(url)} answered is not the language of a store",
            url,
            hint="check AWS_ENDPOINT_URL",
        )
    return None


class TooSlow(TimeoutError):
    """Bytes come, but fewer than the floor."""


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An exception and what it was raised from, however deep the driver wrapped it."""
    one: BaseException | None = error
    for _ in range(8):
        if one is None:
            return
        yield one
        one = one.__cause__ or (None if one.__suppress_context__ else one.__context__)


def _replies(chain: list[BaseException]) -> set[str]:
    """The reply codes of an FTP server."""
    return {str(one)[:3] for one in chain if type(one).__module__ == "ftplib"}


def _code(error: BaseException) -> str | None:
    """The code that a store or a web server gave, where this exception carries one."""
    response: Any = getattr(error, "response", None)
    if isinstance(response, dict) and isinstance(response.get("Error"), dict):
        return str(response["Error"].get("Code", "")) or None
    status = getattr(error, "status", None) or getattr(response, "status_code", None)
    if type(error).__module__.startswith("gcsfs"):
        status = getattr(error, "code", None)
    elif type(error) is OSError and str(error).startswith("Forbidden: "):  # gcsfs keeps no number
        status = 403
    return str(status) if isinstance(status, int) and status >= 300 else None
