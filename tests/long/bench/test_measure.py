"""The runner's measurement of a real run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from mae_runners.actions import measure

from tests.support.images import write_imagefolder


def test_the_runner_times_real_steps_of_the_real_run_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_imagefolder(tmp_path / "d", classes=2, per_class=12)
    spec = tmp_path / "spec.yaml"
    model = "model: {arch: vit_tiny_patch16, decoder_embed_dim: 64}\n"
    sources = (
        f"dataset: {{train_data_sources: {data}, batch_size: 4, num_workers_per_gpu: 0,"
        " augmentation: {input_size: 32}}\n"
    )
    spec.write_text(model + sources + "train: {accelerator: cpu, num_epochs: 2}\n")
    before = sorted(tmp_path.rglob("*"))
    assert measure.main(["-e", str(spec), "--steps", "3"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["steps"] == 3 and found["device"] == "cpu" and 0 < found["seconds_per_step"] < 60
    assert (
        found["images_per_second"] == pytest.approx(4 / found["seconds_per_step"], rel=0.01)
        and found["peak_memory_mb"] > 50
    )
    assert [path for path in sorted(tmp_path.rglob("*")) if "cache" not in path.parts] == [
        p for p in before if "cache" not in p.parts
    ]
    spec.write_text(model + "train: {accelerator: cpu}\n")
    assert measure.main(["-e", str(spec)]) == 3
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["error"]["exit_code"] == 3
