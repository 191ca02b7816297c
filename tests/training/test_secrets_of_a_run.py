"""What a run is given in secret stands in nothing that it writes or prints."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.canaries import MARK, VARIABLES, canary, files_with_mark
from tests.support.training import digits_folder, spec, train


def test_no_canary_of_a_foreground_run_rests_in_its_folder_or_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("MAE_ENCRYPTION_KEY", raising=False)
    data = digits_folder(tmp_path / "data", per_class=2)
    made = spec(data, tmp_path / "out", train__num_epochs=1)
    made["encryption_key"] = canary("key of a run")
    assert train(made) == 0
    assert b"state_dict" not in next((tmp_path / "out" / "train").glob("*.pth")).read_bytes()

    # A source that cannot be reached, and a field that does not exist.
    made["results_dir"] = str(tmp_path / "away")
    source = f"https://{canary('token of a source')}@127.0.0.1:9/x.tar?api_key={canary('query')}"
    assert train(made, f"dataset.train_data_sources={source}") == 8
    made["wandb"] = {"api_key": canary("api_key of a run")}
    assert train(made) == 2
    printed = capfd.readouterr()
    assert MARK not in printed.out + printed.err
    assert files_with_mark(tmp_path / "out") == files_with_mark(tmp_path / "away") == []
    assert (tmp_path / "away" / "error.json").exists()
