"""`benchmarks/quality.py`: its sets do not leak, its rows can fail honestly, and its table is of
what ran."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks import quality


def names(folder: Path) -> dict[str, set[str]]:
    return {part.name: {file.name for file in part.rglob("*.png")} for part in folder.iterdir()}


def test_the_parts_of_a_set_share_no_picture_and_a_seed_chooses_them(tmp_path: Path) -> None:
    images, labels = np.zeros((120, 8, 8)), np.arange(120) % 10
    parts = {"heldout": 4, "labelled": 3, "choose": 2, "pretrain": 1000}
    for seed in (0, 1):
        quality._split(tmp_path / str(seed), seed, images, labels, parts)
    found = names(tmp_path / "0")

    counts = {part: len(files) for part, files in found.items()}
    assert counts == {"labelled": 30, "choose": 20, "heldout": 40, "pretrain": 30}
    assert len(set().union(*found.values())) == 120
    assert found != names(tmp_path / "1")


def test_no_held_out_crop_of_a_photograph_was_seen_in_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = np.arange(512 * 512).reshape(512, 512)
    cells = (picture // 512 // 128) * 4 + picture % 512 // 128
    Image.fromarray((cells * 16).astype("uint8")).save(tmp_path / "one.png")
    monkeypatch.setattr(quality, "photographs", lambda: [tmp_path / "one.png"])
    quality.make_photographs(tmp_path / "set", 0)

    def shades(*parts: str) -> set[int]:
        files = [file for part in parts for file in (tmp_path / "set" / part).rglob("*.png")]
        return {int(value) for file in files for value in np.unique(np.asarray(Image.open(file)))}

    train, choose, held = shades("pretrain", "labelled"), shades("choose"), shades("heldout")
    assert not train & held and not train & choose and not choose & held
    assert len(train | choose | held) == 16


def test_time_is_that_of_all_processes_even_of_those_that_were_left_behind(tmp_path: Path) -> None:
    spin = "import time\nwhile time.process_time() < 0.5: pass"
    leave = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {spin!r}])"
    script = (
        "import subprocess, sys; from benchmarks import quality; quality.adopt_orphans(); "
        f"subprocess.run([sys.executable, '-c', {leave!r}], check=True); "
        "print(quality.processor_seconds())"
    )
    root = Path(quality.__file__).resolve().parents[1]
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=root, check=True
    )

    assert 0.5 <= float(done.stdout) < 5.0


def test_a_row_that_cannot_run_says_why_in_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(case: quality.Case) -> float:
        raise RuntimeError("cannot be installed: no such package")

    monkeypatch.setitem(quality.ROWS, "lightly", ("lightly-train", broken))
    words = ["--sets", "small_digits", "--rows", "svm", "lightly", "--seeds", "0"]
    monkeypatch.setattr(sys, "argv", ["quality.py", *words, "--work", str(tmp_path)])
    monkeypatch.setattr(quality, "adopt_orphans", lambda: None)
    monkeypatch.setattr(quality, "processor_seconds", lambda: 0.0)
    assert quality.main() == 0
    first = capsys.readouterr().out
    assert "| lightly-train | RuntimeError: cannot be installed: no such package |" in first

    svm = next(json.loads(line) for line in first.splitlines() if '"row": "svm"' in line)
    assert 0.85 < svm["accuracy"] < 1.0
    assert f"| raw pixels, SVM | {100 * svm['accuracy']:.1f} (n = 1) |" in first

    assert quality.main() == 0  # what is there is not run again, what failed is
    again = capsys.readouterr().out
    assert '"row": "lightly"' in again and '"row": "svm"' not in again


def test_rows_that_refine_begin_with_one_pretraining_and_have_the_same_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    used, asked = [0.0], []

    class Job:
        def __init__(self, folder: str) -> None:
            self.folder = folder

    def train(
        case: Any, name: str, stage: str, seconds: float, *fields: Any, **options: Any
    ) -> Job:
        asked.append((name, stage, seconds, *fields, options.get("parent_job_id")))
        used[0] += seconds
        return Job(f"{name}-folder")

    scores = {"start-folder": 0.3, "longer-folder": 0.4, "refined-folder": 0.5}

    def probed(case: Any, folder: str) -> dict[str, float]:
        used[0] += 100.0  # of a judgment, which is not counted
        case.free += 100.0
        return dict.fromkeys(quality.PROBES, scores[folder])

    monkeypatch.setattr(quality, "train", train)
    monkeypatch.setattr(quality, "probed", probed)
    monkeypatch.setattr(quality, "judged", lambda case, job: 0.7)
    monkeypatch.setattr(quality, "adopt_orphans", lambda: None)
    monkeypatch.setattr(quality, "processor_seconds", lambda: used[0])
    words = ["--refining", "--sets", "small_digits", "--seeds", "0", "--minutes", "1"]
    monkeypatch.setattr(
        sys, "argv", ["quality.py", *words, "--blocks", "2", "--work", f"{tmp_path}"]
    )
    assert quality.main() == 0
    assert asked == [
        ("start", "pretrain", 40.0, None, None),
        ("start_tuned", "finetune", 15.0, "start-folder"),
        ("longer", "pretrain", pytest.approx(20.0), {}, "start-folder"),
        ("longer_tuned", "finetune", 15.0, "longer-folder"),
        ("refined", "pretrain", pytest.approx(20.0), {"train.refine.blocks": 2}, "start-folder"),
        ("refined_tuned", "finetune", 15.0, "refined-folder"),
    ]
    told = capsys.readouterr().out
    rows = [json.loads(line) for line in told.splitlines() if line.startswith("{")]
    assert [row["seconds"] for row in rows] == [40.0, 60.0, 60.0]
    assert "| small_digits | refined | 50.0 (50.0 to 50.0; n = 1) |" in told
    assert told.count("70.0 (70.0 to 70.0; n = 1)") == 3
