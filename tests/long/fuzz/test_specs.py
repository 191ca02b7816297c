"""The schema and the models give one verdict, over thousands of changed specs of every action."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mae_sdk.cli.main import main
from mae_skill.bundle import Bundle
from mae_skill.dotted import set_dotted
from mae_skill.errors import MaeError
from mae_skill.reader import dump_yaml
from mae_skill.schema_check import check_schema
from mae_skill.spec import ACTIONS, ExperimentSpec
from pydantic import ValidationError

from tests.support.generated_specs import draw, judge, many
from tests.support.images import write_imagefolder
from tests.support.specs import mutated_specs


@pytest.mark.parametrize("action", ACTIONS)
def test_schema_and_models_agree_on_two_thousand_changes(action: str) -> None:
    schema = Bundle.load().schema(action)

    @settings(max_examples=2000, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def verdicts(data: st.DataObject) -> None:
        spec: dict[str, Any]
        spec, key, value = data.draw(mutated_specs(schema))
        try:
            ExperimentSpec.model_validate(spec)
            accepted = True
        except ValidationError:
            accepted = False
        assert accepted == (check_schema(spec, schema) == []), (key, value)

    verdicts()


DRAWN = 20_000
BY_COMMAND = 300
RUN = 30


@pytest.mark.timeout(3600)
def test_twenty_thousand_drawn_specs_are_refused_cleanly_or_taken_by_the_runner() -> None:
    """Two processes, one a core; the counts are printed."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        parts = list(pool.map(many, range(0, DRAWN, 500), [500] * (DRAWN // 500)))
    found = sum(parts, Counter[str]())
    print(dict(found))
    assert found["accepted"] + found["refused"] == DRAWN
    assert found["accepted"] > DRAWN // 20


def test_the_command_line_judges_drawn_specs_as_python_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "spec.yaml"
    for seed in range(BY_COMMAND):
        action, text = draw(seed)
        file.write_text(text, encoding="utf-8", errors="surrogatepass")
        with pytest.raises(SystemExit) as end:
            main(["validate", action, "-e", str(file), "--json"])
        said = capsys.readouterr()
        assert end.value.code in (0, 2, 3, 4, 7, 8), (seed, said.err)
        assert "Traceback" not in said.err
        if isinstance(judge(action, text), MaeError):
            assert end.value.code, seed


@pytest.mark.timeout(1800)
def test_drawn_specs_that_a_plan_accepts_really_train(tmp_path: Path) -> None:
    """Small ones, one epoch: the runner ends well, or by what only training can know (the loss)."""
    data = write_imagefolder(tmp_path / "data", classes=3, per_class=4, size=48)
    ran, seed = 0, 0
    while ran < RUN:
        seed += 1
        action, text = draw(seed)
        verdict = judge(action, text)
        if action != "train" or isinstance(verdict, MaeError):
            continue
        ran += run_small(verdict.spec, data, tmp_path / f"job{seed}", seed)


def run_small(spec: dict[str, Any], data: Path, job: Path, seed: int) -> bool:
    """Whether the spec was run: those that small data or this machine refuses are passed over."""
    small = {
        "results_dir": str(job),
        "encryption_key": None,
        "dataset.train_data_sources": str(data),
        "dataset.val_data_sources": str(data),
        "dataset.batch_size": 3,
        "dataset.num_workers_per_gpu": 0,
        "train.num_epochs": 1,
        "train.num_gpus": 1,
        "train.gpu_ids": [0],
        "train.num_nodes": 1,
        "train.compile": False,
        "train.pretrained_model_path": None,
        "train.resume_training_checkpoint_path": None,
        "train.results_dir": None,
        "dataset.augmentation.input_size": 64,
        "model.depth": 2 if spec["model"]["arch"].startswith("vit") else None,
    }
    for key, value in small.items():
        set_dotted(spec, key, value)
    path = job.with_suffix(".yaml")
    path.write_text(dump_yaml(spec))
    if spec["model"]["task"] == "segmentation":
        return False
    with pytest.raises(SystemExit) as planned:
        main(["validate", "train", "-e", str(path), "--json"])
    if planned.value.code:
        return False
    command = [sys.executable, "-m", "mae_runners", "train", "-e", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode in (0, 5), (seed, done.stderr[-3000:])
    return True
