"""The checksum that a store gives of a whole object, and the one of the bytes that came."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import zlib
from collections.abc import Mapping
from typing import Any, Protocol

from mae_skill.errors import DependencyError

_MD5 = re.compile(r'^"?([0-9a-fA-F]{32})"?$')

# S3's names, the strongest first; HTTP's of RFC 9530 and RFC 3230 beside them.
_ALGORITHMS = ("sha256", "sha1", "crc64nvme", "crc32c", "crc32")
_DIGESTS = {"sha-256": "sha256", "sha": "sha1", "md5": "md5"}
_BYTES = {"md5": 16, "sha256": 32, "sha1": 20, "crc64nvme": 8, "crc32c": 4, "crc32": 4}
_MODELS = {"crc64nvme": "CRC64-NVME", "crc32c": "CRC32-ISCSI"}


class Running(Protocol):
    """A checksum in the making."""

    def update(self, data: bytes, /) -> None: ...

    def hexdigest(self) -> str: ...


class _Crc:
    def __init__(self, algorithm: str) -> None:
        self._width = 2 * _BYTES[algorithm]
        self._value = 0
        self._model: Any = None
        if algorithm in _MODELS:
            try:
                from anycrc import Model
            except ImportError as error:
                raise DependencyError(
                    f"the store's {algorithm} checksum needs the package anycrc",
                    hint="pip install 'mae-skill[s3]'",
                    expected="an installation that has it",
                ) from error
            self._model = Model(_MODELS[algorithm])

    def update(self, data: bytes) -> None:
        step = self._model.calc if self._model else zlib.crc32
        self._value = step(data, self._value) if data else self._value

    def hexdigest(self) -> str:
        return f"{self._value:0{self._width}x}"


def running(checksum: str) -> Running:
    """What computes a checksum such as ``md5:9e10…`` of bytes that are fed in order."""
    algorithm = checksum.partition(":")[0]
    if algorithm.startswith("crc"):
        return _Crc(algorithm)
    return hashlib.new(algorithm, usedforsecurity=False)


def matches(checksum: str | None, data: bytes) -> bool:
    """Whether these are all the bytes of the checksum; None matches anything."""
    if checksum is None:
        return True
    found = running(checksum)
    found.update(data)
    return f"{checksum.partition(':')[0]}:{found.hexdigest()}" == checksum


def of_s3(answer: Mapping[str, Any]) -> str | None:
    """``algorithm:hex`` of a whole object, from what ``HeadObject`` or ``GetObject`` answers.

    A checksum of parts (``…-7``) is of no use to a reader of the whole. An ETag is the MD5 of an
    object that was uploaded in one part and not encrypted with a key of KMS or of the customer.
    """
    if str(answer.get("ChecksumType") or "").upper() != "COMPOSITE":
        for algorithm in _ALGORITHMS:
            found = _hex(answer.get(f"Checksum{algorithm.upper()}"), algorithm)
            if found:
                return f"{algorithm}:{found}"

    etag = _MD5.match(str(answer.get("ETag") or ""))
    foreign = answer.get("SSECustomerAlgorithm") or str(
        answer.get("ServerSideEncryption") or ""
    ).startswith("aws:")
    return f"md5:{etag[1].lower()}" if etag and not foreign else None


def of_web(headers: Mapping[str, str]) -> str | None:
    """``algorithm:hex`` of a whole file, from the headers of a web server or of a store that is
    read through a presigned URL.

    An ETag counts as an MD5 only where the answer is S3's: anywhere else it may be anything.
    """
    fields = {key.lower(): value for key, value in headers.items()}
    for name in ("repr-digest", "digest", "x-goog-hash"):
        for part in fields.get(name, "").split(","):
            key, _, value = part.strip().partition("=")
            algorithm = _DIGESTS.get(key.lower(), key.lower())
            if algorithm in _BYTES and (found := _hex(value.strip().strip(":"), algorithm)):
                return f"{algorithm}:{found}"

    if found := _hex(fields.get("content-md5"), "md5"):
        return f"md5:{found}"
    if "x-amz-request-id" not in fields:
        return None
    sums = {f"Checksum{name.upper()}": fields.get(f"x-amz-checksum-{name}") for name in _ALGORITHMS}
    return of_s3(
        {
            **sums,
            "ChecksumType": fields.get("x-amz-checksum-type"),
            "ETag": fields.get("etag"),
            "ServerSideEncryption": fields.get("x-amz-server-side-encryption"),
            "SSECustomerAlgorithm": fields.get("x-amz-server-side-encryption-customer-algorithm"),
        }
    )


def _hex(value: Any, algorithm: str) -> str | None:
    """Base64 → hex; None for what is no such checksum of a whole."""
    if not value:
        return None
    try:
        found = base64.b64decode(str(value), validate=True)
    except (ValueError, binascii.Error):
        return None
    return found.hex() if len(found) == _BYTES[algorithm] else None
