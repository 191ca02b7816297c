"""Bundles whose runner wants a folder get one, whatever the user named."""

from __future__ import annotations

from pathlib import Path

import pytest
from mae_sdk import Skill
from mae_skill.errors import DataError
from mae_skill.reader import read_spec

from tests.support.images import make_tarball, write_imagefolder
from tests.support.s3 import S3Server
from tests.support.toy_bundle.make import write_bundle


@pytest.fixture
def skill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Skill:
    monkeypatch.setenv("MAE_CACHE_DIR", str(tmp_path / "cache"))
    bundle = write_bundle(tmp_path / "bundle")
    info = bundle / "references" / "skill_info.yaml"
    info.write_text(
        info.read_text().replace("path: pictures,", "path: pictures, runtime: extracted_folder,")
    )
    return Skill(bundle)


def files(folder: str | Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes() for path in Path(folder).rglob("*.png")
    }


@pytest.mark.parametrize("place", ["folder", "archive", "remote archive", "prefix"])
def test_a_runner_that_wants_a_folder_is_given_one(
    place: str, skill: Skill, s3: S3Server, tmp_path: Path
) -> None:
    pictures = write_imagefolder(tmp_path / "pictures", 2, 3)
    bucket = s3.bucket("unpacked")
    source = {
        "folder": str(pictures),
        "archive": str(make_tarball(pictures, tmp_path / "a.tar")),
        "remote archive": f"s3://unpacked/{make_tarball(pictures, bucket / 'a.tar.gz').name}",
        "prefix": "s3://unpacked/loose",
    }[place]
    write_imagefolder(bucket / "loose", 2, 3)
    job = skill.create_job(
        "train", train_datasets=source, automl_policy="off", results_root=str(tmp_path / "results")
    ).wait(60)
    given = read_spec(job.folder / "spec.yaml")["data"]["folder"]
    assert files(given) == files(pictures)
    assert (given == source) == (place == "folder")


def test_a_hostile_archive_starts_no_job(skill: Skill, tmp_path: Path) -> None:
    from tests.support.hostile import CORPUS

    name, make, member = CORPUS["a climbing path"]
    (tmp_path / name).write_bytes(make())
    with pytest.raises(DataError, match=member):
        skill.create_job(
            "train",
            train_datasets=str(tmp_path / name),
            automl_policy="off",
            results_root=str(tmp_path / "results"),
        )
    assert not [path for path in (tmp_path / "results").glob("*") if not path.name.startswith(".")]
