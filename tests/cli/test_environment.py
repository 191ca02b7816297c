"""Commands in an odd environment: closed streams and pipes, another locale, no home, no TMPDIR."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from mae_sdk import files
from mae_sdk.run.devices import CoreShare

from tests.support.training import digits_folder, spec, train, write_spec

MAE = str(Path(sys.executable).with_name("mae"))


@pytest.fixture
def made(tmp_path: Path) -> Path:
    data = digits_folder(tmp_path / "data", per_class=2)
    return write_spec(spec(data, tmp_path / "out", train__num_epochs=1), tmp_path / "spec.json")


def shell(line: str, folder: Path, **changes: str | None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for name, value in changes.items():
        environment.pop(name, None)
        if value is not None:
            environment[name] = value
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", line.replace("mae ", f"{MAE} ")],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("mae validate train -e spec.json >&-", 0),
        ("mae validate train -e spec.json <&- 2>&-", 0),
        ("mae validate train -e spec.json <&- >&- 2>&-", 0),
        ("mae validate train -e - <&-", 3),  # an empty spec names no data
        ("mae train -e spec.json train.num_epochs=many >&-", 2),
        ("mae train -e spec.json train.num_epochs=many 2>&-", 2),
        ("mae train -e spec.json train.num_epochs=many 2>&1 | true", 141),
        ("mae explain train 2>&1 | true", 141),
        ("mae explain train | head -1", 141),
        ("mae nonsense 2>&1 >/dev/null | true", 141),
        ("mae explain train > /dev/full", 8),
    ],
)
def test_closed_streams_and_pipes_are_nobodys_fault(line: str, code: int, made: Path) -> None:
    done = shell(line, made.parent)
    ends = {code, 0} if code == 141 else {code}  # a pipe may hold everything before it closes
    assert done.returncode in ends, done.stderr
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr


@pytest.mark.parametrize(
    "changes",
    [
        {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
        {"PYTHONIOENCODING": "ascii"},
        {"HOME": None},
        {"HOME": "/proc/none", "MAE_CACHE_DIR": None},
        {"TMPDIR": "/proc/none"},
        {"PYTHONWARNINGS": "error", "TERM": None},
        {"PYTHONPATH": "::", "COLUMNS": "wide"},
        {"PYTHONOPTIMIZE": "2"},
    ],
    ids=str,
)
def test_a_plan_is_the_same_in_an_odd_environment(
    changes: dict[str, str | None], made: Path
) -> None:
    folder = made.parent / "bücher"
    (made.parent / "data").rename(folder)
    done = shell(
        "mae plan train -e spec.json --json dataset.train_data_sources=bücher --automl-policy=off",
        made.parent,
        **changes,
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["sources"]["dataset.train_data_sources"]["images"] == 6
    name = document["spec"]["dataset"]["train_data_sources"]
    name = name if isinstance(name, str) else name[0]
    assert name.encode("utf-8", "surrogateescape").decode().endswith("bücher")


def test_a_user_without_a_home_is_told_of_the_variable_where_a_cache_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HOME", "MAE_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)

    def nobody() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", nobody)
    with pytest.raises(OSError, match="set MAE_CACHE_DIR"):
        files.cache_home()
    with pytest.raises(OSError, match="set MAE_CACHE_DIR"):
        CoreShare().join()  # which a job that needs no cache does without


def test_a_second_run_in_a_results_folder_is_refused_and_changes_nothing_there(
    tmp_path: Path, made: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    content = json.loads(made.read_text())
    with files.locked(out / ".run.lock"):  # as the first run holds it
        assert train(content) == 2
        assert train(content, "train.num_epochs=many") == 2
    said = capfd.readouterr().err
    assert said.count("another run is writing into this folder") == 2
    assert sorted(path.name for path in out.iterdir()) == [".run.lock"]
    assert train(content) == 0, "the folder is free again"
