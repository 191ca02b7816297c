"""Models of the Hugging Face hub, through its own library: found by a plan, fetched by a launch,
put there by an export.

A model is ``hf://ORG/NAME``, with ``@REVISION`` behind the name and ``/FILE`` at the end where
asked for; timm's ``hf-hub:ORG/NAME`` is the same. The library's variables hold: ``HF_ENDPOINT``,
``HF_HUB_CACHE``, ``HF_HUB_OFFLINE``; the token is read from ``HF_TOKEN`` alone.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mae_skill.errors import (
    CheckpointError,
    DependencyError,
    NotFoundError,
    StorageError,
    UsageError,
)

from mae_sdk.files import atomic_file

_REFERENCE = re.compile(
    r"(?:hf://|hf-hub:|hf_hub:)([\w.-]+/[\w.-]+)(?:@([^/@]+))?(?:/(.+))?", re.ASCII
)
_PREFIXES = ("hf://", "hf-hub:", "hf_hub:")
_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_DESCRIPTIONS = ("config.json", "preprocessor_config.json")
TOKEN_VARIABLE = "HF_TOKEN"


@dataclass(frozen=True)
class Found:
    """A model of the hub, at one commit.

    Attributes:
        repo: ``ORG/NAME``.
        commit: the hub's digest of the revision.
        path: its file of weights in the hub's cache, or the folder of a model in several files.
        needs: what is not there yet: ``(url, path, None)``, as `outputs.fetch` takes it.
    """

    repo: str
    commit: str
    path: Path
    needs: tuple[tuple[str, Path, str | None], ...]


def is_reference(text: str) -> bool:
    """Whether ``text`` names a model of the hub."""
    return text.startswith(_PREFIXES)


def locate(reference: str) -> Found:
    """The model that ``reference`` names. Its descriptions are fetched, its weights are not; a
    model in several files is fetched whole.

    Raises:
        UsageError: it is not written so.
        NotFoundError: the hub has no such model, revision or file, or does not show it without a
            token.
        CheckpointError: it holds no weights by a known name.
        StorageError: the hub does not answer, and the model is not in its cache.
        DependencyError: huggingface_hub is missing.
    """
    match = _REFERENCE.fullmatch(reference)
    if match is None:
        raise UsageError(
            "not a model of the hub",
            field="ptm",
            got=reference,
            expected="hf://ORG/NAME, hf://ORG/NAME@REVISION or hf://ORG/NAME/FILE",
            hint="write the owner and the name of the model",
        )
    repo, revision, file = match.groups()
    commit, names, folder = _look(repo, revision, reference)
    if file is None:
        file = next((name for name in (*_INDEXES, *_WEIGHTS) if name in names), None)
    elif file not in names:
        raise NotFoundError(
            f"{repo} has no file {file}",
            field="ptm",
            got=reference,
            expected=_listed(names),
            hint="name one of the files that it has",
        )
    if file is None:
        raise CheckpointError(
            f"{repo} holds no weights by a known name",
            field="ptm",
            got=_listed(names),
            expected=" or ".join(_WEIGHTS),
            hint=f"name the file: hf://{repo}/FILE",
        )
    for name in _DESCRIPTIONS:
        if name in names and not (folder / name).is_file():
            _download(repo, commit, name)
    if file in _INDEXES:
        stem = file.removesuffix(".index.json").rpartition(".")[0]
        for name in names:
            if name == file or name.startswith(f"{stem}-"):
                _download(repo, commit, name)
        return Found(repo, commit, folder, ())
    path = folder / file
    needs = () if path.is_file() else ((f"hf://{repo}@{commit}/{file}", path, None),)
    return Found(repo, commit, path, needs)


def bring(url: str) -> Path:
    """Fetch the file that one of `Found.needs` names into the hub's cache.

    Raises:
        NotFoundError, StorageError: as `locate`.
    """
    match = _REFERENCE.fullmatch(url)
    assert match is not None and match[2] and match[3], url
    return _download(match[1], match[2], match[3])


def push(folder: Path, repo: str, message: str) -> dict[str, str]:
    """Put a folder's files into a model of the hub in one commit; a new model is private.

    Returns:
        ``{"repo", "url", "commit"}``.

    Raises:
        UsageError: there is no token.
        StorageError: the hub does not take it; what is there stays as it was.
        DependencyError: huggingface_hub is missing.
    """
    field = "export.push_to_hub"
    need_token(field, repo)
    hub = _library()
    api = _api()
    try:
        api.create_repo(repo, repo_type="model", private=True, exist_ok=True)
        done = api.upload_folder(repo_id=repo, folder_path=folder, commit_message=message)
    except Exception as error:  # its HTTP client, and so the class, changes between versions
        status = getattr(getattr(error, "response", None), "status_code", None)
        refused = isinstance(error, hub.errors.HfHubHTTPError) and status in (401, 403)
        raise StorageError(
            f"the hub did not take {repo}: "
            + (f"HTTP {status}" if status else type(error).__name__),
            field=field,
            got=repo,
            hint=f"{TOKEN_VARIABLE} must be allowed to write there"
            if refused
            else f"the folder is at {folder}; export again with export.overwrite=true",
            expected="a repository that takes files of this user",
        ) from error
    return {"repo": repo, "url": str(done.commit_url), "commit": str(done.oid)}


def need_token(field: str, repo: str) -> None:
    """Raises `UsageError` where the environment has no token."""
    if token() is None:
        raise UsageError(
            "the hub wants a token",
            field=field,
            got=repo,
            expected=f"{TOKEN_VARIABLE} in the environment, with leave to write",
            hint=f"export {TOKEN_VARIABLE}, or pass --env {TOKEN_VARIABLE}=…",
        )


def _look(repo: str, revision: str | None, reference: str) -> tuple[str, list[str], Path]:
    """Commit, names of the files, and the folder in the cache; from the cache alone where the hub
    does not answer."""
    hub = _library()
    try:
        with _errors(repo, reference):
            info = _api().model_info(repo, revision=revision)
        folder = _folder(repo, str(info.sha))
        if revision != info.sha:  # as the library notes what a branch or tag was
            with atomic_file(folder.parents[1] / "refs" / (revision or "main")) as draft:
                draft.write_text(str(info.sha))
        return str(info.sha), [item.rfilename for item in info.siblings], folder
    except StorageError:
        try:
            kept = Path(
                hub.snapshot_download(
                    repo, revision=revision, local_files_only=True, cache_dir=_cache()
                )
            )
        except Exception:  # any of the library's: the hub's own silence says more
            kept = None
        if kept is None:
            raise
    names = [str(path.relative_to(kept)) for path in kept.rglob("*") if path.is_file()]
    return kept.name, sorted(names), kept


def _download(repo: str, commit: str, name: str) -> Path:
    hub = _library()
    with _errors(repo, f"hf://{repo}@{commit}/{name}"):
        return Path(
            hub.hf_hub_download(
                repo,
                name,
                revision=commit,
                cache_dir=_cache(),
                endpoint=_endpoint(),
                token=token() or False,
            )
        )


def _api() -> Any:
    return _library().HfApi(endpoint=_endpoint(), token=token() or False)


def token() -> str | None:
    """The hub's token, from the environment alone."""
    return os.environ.get(TOKEN_VARIABLE) or None


def _endpoint() -> str | None:
    return os.environ.get("HF_ENDPOINT") or None


def _cache() -> Path:
    from huggingface_hub import constants

    return Path(os.environ.get("HF_HUB_CACHE") or constants.HF_HUB_CACHE)


def _folder(repo: str, commit: str) -> Path:
    """Where the hub's cache keeps a commit's files."""
    return _cache() / f"models--{repo.replace('/', '--')}" / "snapshots" / commit


def _library() -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise DependencyError(
            "models of the hub need its library",
            expected="the package huggingface_hub",
            hint="pip install 'mae-skill[hub]', or name a folder",
        ) from error
    return huggingface_hub


@contextmanager
def _errors(repo: str, reference: str) -> Iterator[None]:
    """The library's errors as ours."""
    from huggingface_hub import errors

    absent = (
        errors.RepositoryNotFoundError,
        errors.RevisionNotFoundError,
        errors.EntryNotFoundError,
    )
    try:
        yield
    except errors.LocalEntryNotFoundError as error:  # the hub did not answer
        raise _silent(repo, reference, error) from error
    except absent as error:
        raise NotFoundError(
            f"the hub shows no {repo} as asked for",
            field="ptm",
            got=reference,
            expected="a public model, or one that HF_TOKEN may read",
            hint=None if token() else "set HF_TOKEN for a private or gated model",
        ) from error
    except Exception as error:  # its HTTP client, and so the class, changes between versions
        raise _silent(repo, reference, error) from error


def _silent(repo: str, reference: str, error: Exception) -> StorageError:
    return StorageError(
        f"the hub did not give {repo}: {type(error).__name__}",
        field="ptm",
        got=reference,
        hint="try again, or fetch it where there is a network and name its folder",
        expected="a model or data set that the hub gives to this user",
    )


def _listed(names: list[str]) -> str:
    more = ", …" if len(names) > 12 else ""
    return ", ".join(names[:12]) + more
