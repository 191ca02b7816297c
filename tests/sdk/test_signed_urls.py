"""Presigned URLs as data: the job reads them, and their signature rests nowhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mae_sdk import Skill
from mae_sdk.jobs.secrets import redact
from mae_sdk.storage import transfer, urls
from mae_skill.errors import UsageError
from mae_skill.reader import read_spec

from tests.support.canaries import MARK, files_with_mark, watched_argv
from tests.support.images import make_tarball, write_imagefolder
from tests.support.web import Web, serving

QUERY = f"part=1&X-Amz-Expires=900&X-Amz-Signature={MARK}0123456789"


@pytest.fixture
def signed(tmp_path: Path) -> Iterator[tuple[Web, str]]:
    """A server that answers only the whole signed URL of an archive, and that URL."""
    packed = make_tarball(
        write_imagefolder(tmp_path / "pictures", classes=2, per_class=4, size=32),
        tmp_path / "packed" / "data.tar",
    )
    with serving() as web:
        web.files[f"/data.tar?{QUERY}"] = packed.read_bytes()
        yield web, web.url(f"data.tar?{QUERY}")


SMALL = {
    "model": {
        "arch": "vit_tiny_patch16",
        "embed_dim": 16,
        "depth": 1,
        "num_heads": 2,
        "decoder_embed_dim": 16,
        "decoder_depth": 1,
    },
    "dataset": {"batch_size": 4, "num_workers_per_gpu": 0, "augmentation": {"input_size": 32}},
    "train": {"stage": "pretrain", "num_epochs": 1},
}


def test_a_job_reads_a_presigned_url_and_nothing_it_leaves_holds_the_signature(
    signed: tuple[Web, str], tmp_path: Path
) -> None:
    web, url = signed
    skill = Skill()
    options: dict[str, Any] = {
        "train_datasets": url,
        "spec": SMALL,
        "automl_policy": "off",
        "results_root": str(tmp_path / "results"),
    }
    with watched_argv() as argv:
        plan = skill.plan("train", **options)
        job = skill.create_job(plan).wait(120)
    assert argv == [] and len(web.asked) > 0
    assert [key for key in plan.secrets if key.startswith("MAE_URL_SECRET_")] == plan.to_dict()[
        "env"
    ]
    for text in (
        repr(plan),
        json.dumps(plan.to_dict()),
        plan.to_python(),
        job.logs(),
        str(job.record),
    ):
        assert MARK not in text
    source = read_spec(job.folder / "spec.yaml")["dataset"]["train_data_sources"]
    assert source.startswith("http://env:MAE_URL_SECRET_") and source.endswith("/data.tar?part=1")
    assert files_with_mark(tmp_path / "results") == [] and files_with_mark(tmp_path / "cache") == []


def test_without_its_variable_a_sealed_url_says_which_one_to_set(
    signed: tuple[Web, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, url = signed
    sealed = urls.seal(url)
    name = next(iter(urls.held({"a": [sealed]})))
    assert transfer.info(sealed)["size"] == transfer.info(url)["size"] > 0
    monkeypatch.delitem(urls._held, name)
    with pytest.raises(UsageError, match="not set") as caught:
        transfer.info(sealed)
    assert name in str(caught.value.expected) and MARK not in str(caught.value.to_dict())
    monkeypatch.setenv(name, url)
    assert transfer.info(sealed)["size"] > 0


def test_the_runner_alone_writes_no_signature_either(
    signed: tuple[Web, str], tmp_path: Path
) -> None:
    _, url = signed
    spec = {
        **SMALL,
        "dataset": {**SMALL["dataset"], "train_data_sources": url},
        "results_dir": str(tmp_path / "results"),
    }
    path = tmp_path / "spec.json"
    path.write_text(json.dumps(spec))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "mae_runners", "train", "-e", str(path)],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 0 and MARK not in done.stdout + done.stderr
    assert (tmp_path / "results" / "train" / "result.json").is_file() and files_with_mark(
        tmp_path / "results"
    ) == []


@pytest.mark.parametrize(
    ("url", "sealed"),
    [
        ("sftp://user:pass@host/a.tar", "sftp://env:{}@host/a.tar"),
        ("https://host/a.tar?versionId=3&sig=abc", "https://env:{}@host/a.tar?versionId=3"),
        ("https://host/a.tar?versionId=3", None),
        ("s3://bucket/a.tar", None),
        ("/data/a?b=c", None),
        ("https://env:MAE_URL_SECRET_AB@host/a.tar", None),
    ],
)
def test_what_is_sealed(url: str, sealed: str | None) -> None:
    found = urls.seal(url)
    names = list(urls.held([found]))
    assert found == (url if sealed is None else sealed.format(names[0]))
    assert urls.unsigned(found) == urls.unsigned(url)
    assert redact(found, []) == found  # the name of a variable is no secret


def test_another_signature_of_the_same_object_gives_the_same_spec() -> None:
    first, second = (
        urls.seal(f"https://host/a.tar?X-Amz-Signature={value}") for value in ("one", "two")
    )
    assert first == second
    assert list(urls.held(first).values()) == ["https://host/a.tar?X-Amz-Signature=two"]


def test_a_signature_in_a_librarys_message_is_hidden() -> None:
    said = redact("403 for http://h/a?b=c&X-Amz-Signature=feedbeef&x=1 and https://h/?sig=abc'", [])
    assert "feedbeef" not in said and "sig=abc" not in said and "x=1" in said
