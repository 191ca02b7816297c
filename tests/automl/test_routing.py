"""What a person set for a run survives the way through AutoML: data, spec, output, devices,
platform, parent, environment, policy."""

from __future__ import annotations

from typing import Any

import pytest
from mae_sdk import Skill, files
from mae_skill.errors import UsageError
from mae_skill.reader import read_spec

from tests.support.images import write_imagefolder
from tests.support.toy_bundle.make import write_bundle

OPTIONS: dict[str, Any] = {"max_trials": 2, "pruner": "none"}


@pytest.fixture(scope="module")
def routed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One AutoML job with every kind of override, and the parent it was given; the facts that the
    tests look at."""
    root = tmp_path_factory.mktemp("routing")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
        patch.setenv("XDG_CACHE_HOME", str(root / "cache"))
        skill = Skill(write_bundle(root / "bundle"))
        before = (root / "bundle" / "references" / "skill_info.yaml").read_bytes()
        data = write_imagefolder(root / "data" / "pictures", classes=2, per_class=1).parent
        common = {
            "train_datasets": str(data),
            "results_root": str(root / "out" / "here"),
            "platform": "local",
        }
        parent = skill.create_job(
            "train", **common, automl_policy="off", spec_overrides={"train.rate": 0.25}
        ).wait(60)
        file = root / "spec.yaml"
        file.write_text("train:\n  rounds: 4\n")
        job = skill.create_job(
            "train",
            **common,
            spec=read_spec(str(file)),
            parent_job_id=parent.id,
            automl=OPTIONS,
            env={"MAE_ENCRYPTION_KEY": "canary-4711"},
            spec_overrides={"train.shade": "light", "train.num_gpus": 1},
        ).wait(120)
    trials = [
        skill.job(path.name, results_root=job.folder.parent)
        for path in sorted(job.folder.parent.glob(f"{job.id}.t*"))
    ]
    assert len(trials) == 2
    return {
        "skill": skill,
        "root": root,
        "data": data,
        "parent": parent,
        "job": job,
        "trials": trials,
        "before": before,
    }


def _specs(routed: dict[str, Any]) -> list[dict[str, Any]]:
    return [read_spec(str(trial.folder / "spec.yaml")) for trial in routed["trials"]]


def test_the_data_set_reaches_every_trial(routed: dict[str, Any]) -> None:
    assert {spec["data"]["folder"] for spec in _specs(routed)} == {str(routed["data"] / "pictures")}
    assert all(trial.record["data"] == routed["job"].record["data"] for trial in routed["trials"])


def test_spec_file_and_overrides_reach_every_trial_and_only_the_parameter_differs(
    routed: dict[str, Any],
) -> None:
    first, second = _specs(routed)
    assert {(spec["train"]["rounds"], spec["train"]["shade"]) for spec in (first, second)} == {
        (4, "light")
    }
    changed = {key for key in first["train"] if first["train"][key] != second["train"][key]}
    assert changed == {"rate"}
    assert first["train"]["rate"] == 0.5  # trial 0 is the spec as given


def test_the_output_folder_is_the_one_that_was_given(routed: dict[str, Any]) -> None:
    place = routed["root"] / "out" / "here"
    assert all(trial.folder.parent == place for trial in [routed["job"], *routed["trials"]])
    assert [spec["out"] for spec in _specs(routed)] == [
        str(trial.folder) for trial in routed["trials"]
    ]


def test_trials_get_the_devices_of_the_run_and_the_controller_holds_none(
    routed: dict[str, Any],
) -> None:
    for trial in routed["trials"]:
        launch = trial.record["launch"]
        assert (launch["devices"], launch["device_count"], launch["processes"]) == (
            ["3", "5"],
            1,
            1,
        )
        assert "device" in trial.logs() and trial.logs().split("device ")[1].split()[0] in (
            "3",
            "5",
        )
    assert routed["job"].record["launch"]["devices"] == []
    study = files.read_json(routed["job"].folder / "automl" / "study.json")
    assert study["concurrency"] == 2  # two devices, one a trial


def test_the_platform_is_recorded_with_every_trial_and_an_unknown_one_is_refused(
    routed: dict[str, Any],
) -> None:
    assert {trial.record["platform"] for trial in routed["trials"]} == {"local"}
    with pytest.raises(UsageError, match="no such platform"):
        routed["skill"].plan("train", train_datasets=str(routed["data"]), platform="moon")


def test_the_parents_checkpoint_reaches_every_trial(routed: dict[str, Any]) -> None:
    checkpoint = str(routed["parent"].best_checkpoint())
    assert {spec["train"]["start_from"] for spec in _specs(routed)} == {checkpoint}
    assert {trial.record["parent"] for trial in routed["trials"]} == {routed["parent"].id}


def test_the_environment_reaches_every_trial_and_no_file(routed: dict[str, Any]) -> None:
    assert all("secret [redacted]" in trial.logs() for trial in routed["trials"])
    files = [path for path in (routed["root"] / "out").rglob("*") if path.is_file()]
    assert files and not [path for path in files if b"canary-4711" in path.read_bytes()]


def test_a_policy_for_one_run_changes_no_metadata_of_the_bundle(routed: dict[str, Any]) -> None:
    info = routed["root"] / "bundle" / "references" / "skill_info.yaml"
    assert info.read_bytes() == routed["before"]
    assert routed["skill"].plan("train", train_datasets=str(routed["data"])).automl is not None
