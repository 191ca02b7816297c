"""A tracker that fails ends no training."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from mae_runners.metrics.gallery import Gallery
from mae_runners.training import services, trackers
from mae_runners.training.services import Guarded
from mae_skill.spec import ExperimentSpec


class Recorder:
    """A service that keeps what it is told, and fails from a step on."""

    def __init__(self, fails_at: int) -> None:
        self.fails_at = fails_at
        self.told: list[tuple[Any, ...]] = []

    def scalars(self, step: int, values: Any) -> None:
        if step >= self.fails_at:
            raise ConnectionError("the service is gone\nfor good")
        self.told.append(("scalars", step, dict(values)))

    def picture(self, step: int, name: str, pixels: np.ndarray) -> None:
        self.told.append(("picture", step, name, pixels.shape))

    def flush(self) -> None:
        self.told.append(("flush",))

    def close(self) -> None:
        self.told.append(("close",))


def test_services_get_scalars_and_pictures_and_the_first_failure_is_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    warned: list[str] = []
    context: Any = SimpleNamespace(is_main=True, warn=warned.append)
    service = Recorder(fails_at=3)
    guarded = Guarded(service, "mlflow.enable", "MLflow", context)
    monkeypatch.setattr(trackers, "start_mlflow", lambda *_: guarded)
    spec = ExperimentSpec.model_validate({"mlflow": {"enable": True}})

    gallery = Gallery(tmp_path)
    gallery.add("mistakes", [[np.zeros((4, 4, 3), np.uint8)]], [{"name": "a"}])
    gallery.add("progress", [[np.zeros((4, 4, 3), np.uint8)]], [{"name": "a"}], epoch=0)
    gallery.save()
    made = trackers.Trackers(tmp_path, spec, {}, context, 0)
    made.log(1, 0, {"loss": 0.5, "bad": float("nan")})
    made.machine(2, {"images_per_second": 9.0})
    made.gallery(2, tmp_path)
    made.log(3, 0, {"loss": 0.4})
    made.log(4, 0, {"loss": 0.3})
    made.close()

    assert service.told == [
        ("scalars", 1, {"loss": 0.5, "epoch": 0}),
        ("scalars", 2, {"images_per_second": 9.0}),
        ("picture", 2, "mistakes", (4, 4, 3)),
    ]
    assert warned == ["mlflow.enable: went on without MLflow: the service is gone"]
    rows = (tmp_path / "metrics.csv").read_text().splitlines()
    assert rows[-1] == "4,0,loss,0.3" and "1,0,bad,nan" in rows


def test_without_the_package_a_run_says_so_and_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    warned: list[str] = []
    context: Any = SimpleNamespace(is_main=True, warn=warned.append)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    spec = ExperimentSpec.model_validate({"mlflow": {"enable": True}})
    assert services.start_mlflow(tmp_path, spec.mlflow, {}, context) is None
    assert len(warned) == 1 and "mae-skill[mlflow]" in warned[0]
