"""Services that a run also tells its numbers and images: Weights & Biases, MLflow.

None of them may end a training: what cannot start, or fails later, is left out with a warning.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from mae_sdk.files import write_text
from mae_skill.dotted import flatten
from mae_skill.rules.tracking import mlflow_lacks, wandb_lacks
from mae_skill.spec import MlflowSpec, WandbSpec

from mae_runners.context import RunContext

BATCH = 1000  # metrics that MLflow takes at a time


class Service(Protocol):
    """What a service is told."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None: ...

    def picture(self, step: int, name: str, pixels: np.ndarray) -> None:
        """An image, uint8 ``[H, W, 3]``."""

    def flush(self) -> None: ...

    def close(self) -> None: ...


class Guarded:
    """A service that is dropped, with a warning, at its first failure.

    Args:
        field: of the spec that asks for it.
        name: of the service.
    """

    def __init__(self, service: Service, field: str, name: str, context: RunContext) -> None:
        self._service: Service | None = service
        self._field, self._name, self._context = field, name, context

    def tell(self, act: Callable[[Service], object]) -> None:
        """Does something with the service, if it has not failed before."""
        if self._service is None:
            return
        try:
            act(self._service)
        except Exception as error:  # a service may fail in any way; the training must not
            self._service = None
            self._context.warn(f"{self._field}: went on without {self._name}: {_reason(error)}")


def _reason(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


class WandbService:
    """The run of Weights & Biases."""

    def __init__(self, run: Any) -> None:
        self.run = run

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self.run.log(dict(values), step=step)

    def picture(self, step: int, name: str, pixels: np.ndarray) -> None:
        import wandb

        self.run.log({name: wandb.Image(pixels)}, step=step)

    def flush(self) -> None:
        """It sends by itself."""

    def close(self) -> None:
        self.run.finish()


def start_wandb(
    folder: Path, block: WandbSpec, config: dict[str, Any], context: RunContext
) -> Guarded | None:
    """The run of Weights & Biases, or None where there can be none: training goes on without."""
    lacks = wandb_lacks(os.environ)
    if lacks is not None:
        context.warn(f"wandb.enable: training without Weights & Biases: {lacks}")
        return None
    import wandb

    identity: dict[str, Any] = {"id": block.run_id, "resume": "allow"} if block.run_id else {}
    try:
        run = wandb.init(
            project=block.project or None,
            entity=block.entity or None,
            group=block.group or None,
            tags=list(block.tags or []),
            name=block.name or None,
            reinit=bool(block.reinit) or None,
            sync_tensorboard=bool(block.sync_tensorboard),
            dir=str(folder),
            config=config,
            settings=wandb.Settings(save_code=bool(block.save_code)),
            **identity,
        )
    except wandb.errors.Error as error:  # a key that is refused, a service that is not reached
        context.warn(f"wandb.enable: training without Weights & Biases: {_reason(error)}")
        return None
    return Guarded(WandbService(run), "wandb.enable", "Weights & Biases", context)


class MlflowService:
    """A run of MLflow. Numbers are sent at the end of an epoch, some hundreds at a time."""

    def __init__(self, client: Any, run_id: str) -> None:
        self.client, self.run_id = client, run_id
        self._waiting: list[Any] = []

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._waiting += [Metric(name, float(value), now, step) for name, value in values.items()]

    def picture(self, step: int, name: str, pixels: np.ndarray) -> None:
        from PIL import Image

        self.client.log_image(self.run_id, Image.fromarray(pixels), f"pictures/{name}_{step}.png")

    def flush(self) -> None:
        while self._waiting:
            self.client.log_batch(self.run_id, metrics=self._waiting[:BATCH])
            del self._waiting[:BATCH]

    def close(self) -> None:
        self.flush()
        self.client.set_terminated(self.run_id)


def start_mlflow(
    folder: Path, block: MlflowSpec, config: dict[str, Any], context: RunContext
) -> Guarded | None:
    """The run of MLflow, or None where there can be none: training goes on without.

    ``MLFLOW_TRACKING_URI`` says where; without it a database in `folder`. A resumed run goes on in
    the run of its first attempt.
    """
    if (lacks := mlflow_lacks()) is not None:
        context.warn(f"mlflow.enable: training without MLflow: {lacks}")
        return None
    try:
        from mlflow.tracking import MlflowClient

        client = MlflowClient(os.environ.get("MLFLOW_TRACKING_URI") or _database(folder))
        noted, run_id = folder / "mlflow_run_id", ""
        with contextlib.suppress(OSError):
            run_id = noted.read_text(encoding="utf-8").strip()
        if not run_id:
            run_id = _new_run(client, folder, block, config)
            write_text(noted, run_id)
        else:
            client.update_run(run_id, status="RUNNING")
    except Exception as error:  # a server that is not reached, a database of another version
        context.warn(f"mlflow.enable: training without MLflow: {_reason(error)}")
        return None
    return Guarded(MlflowService(client, run_id), "mlflow.enable", "MLflow", context)


def _database(folder: Path) -> str:
    return f"sqlite:///{folder / 'mlflow.db'}"


def _new_run(client: Any, folder: Path, block: MlflowSpec, config: dict[str, Any]) -> str:
    from mlflow.entities import Param

    name = str(block.experiment)
    place = None if os.environ.get("MLFLOW_TRACKING_URI") else (folder / "mlruns").as_uri()
    known = client.get_experiment_by_name(name)
    experiment = known.experiment_id if known else client.create_experiment(name, place)
    run_id = str(client.create_run(experiment, run_name=block.name or None).info.run_id)
    chosen = [Param(key, str(value)[:500]) for key, value in flatten(config).items()]
    for start in range(0, len(chosen), 100):
        client.log_batch(run_id, params=chosen[start : start + 100])
    return run_id
