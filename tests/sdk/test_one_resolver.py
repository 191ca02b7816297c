"""Plan, validate, the foreground command, MCP and a job resolve one spec to one verdict."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from mae_runners.__main__ import resolve as resolve_in_the_runner
from mae_skill.dotted import flatten
from mae_skill.reader import dump_yaml

from tests.support.verdicts import SKILL, check_verdicts, some_places

SPECS = 40  # tests/long/fuzz goes on to 300


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with some_places(tmp_path_factory.mktemp("places")) as found:
        yield found


def test_generated_specs_get_one_verdict_from_every_caller(
    places: dict[str, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = check_verdicts(range(SPECS), places, tmp_path, capsys, monkeypatch)
    assert min(seen[code] for code in (0, 2, 3, 4)) >= 2, seen


def test_a_trial_is_judged_as_the_study_it_belongs_to(
    places: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("optuna")
    overrides = {"arch": "vit_tiny_patch16", "image_size": 64, "num_epochs": 2, "batch_size": 2}
    plan = SKILL.plan(
        "train",
        train_datasets=places["data"],
        spec_overrides=overrides,
        automl={"max_trials": 2},
        results_root=str(tmp_path / "out"),
    )
    assert plan.study is not None
    file = tmp_path / "trial.yaml"
    file.write_text(dump_yaml(plan.study["spec"]))
    monkeypatch.setenv("MAE_JOB_DIR", str(tmp_path))
    found = resolve_in_the_runner("train", str(file), [])
    assert found.errors == [] and flatten(found.spec) == flatten(plan.study["spec"])
