"""Steps that are not finite never reach the weights, at whatever step the numbers are read; fp16's
scaler goes along with a resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from mae_runners.models import checkpoint
from mae_runners.tasks.pretrain import PretrainTask
from mae_runners.training import fabric, loop, optim
from mae_runners.training.step_log import StepLog

from tests.support.training import curve, digits_folder, read, spec, train

SERIES = ("train_loss_step", "train_loss", "lr", "grad_norm", "val_loss")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return digits_folder(tmp_path_factory.mktemp("digits"))


def fused(patch: pytest.MonkeyPatch, deferred: bool) -> None:
    """The optimizer of a GPU, which AdamW has for CPUs as well; with it the numbers are read every
    few steps."""
    whole = optim.build_optimizer

    def build(
        groups: Any, spec: Any, *, stage: str, lr: float, device: torch.device
    ) -> torch.optim.AdamW:
        made = whole(groups, spec, stage=stage, lr=lr, device=device)
        kept = [
            {name: group[name] for name in ("params", "scale", "weight_decay", "lr")}
            for group in made.param_groups
        ]
        return torch.optim.AdamW(kept, lr=lr, betas=made.defaults["betas"], fused=True)

    patch.setattr(loop, "build_optimizer", build)
    if not deferred:
        begin = StepLog.__init__
        patch.setattr(
            StepLog,
            "__init__",
            lambda self, _, device, ranks: begin(self, False, device, ranks),
        )


def bad_loss(patch: pytest.MonkeyPatch, step: int, kind: str, micro: int = 0) -> None:
    """From optimizer step `step` on (counted from 0) one micro-batch has a loss, or only a
    gradient, that is not finite."""
    whole = PretrainTask.training_step

    def loss(self: Any, module: Any, batch: Any, key: tuple[int, int, int]) -> torch.Tensor:
        value = whole(self, module, batch, key)
        group = self.spec.train.accum_grad_batches
        if key[1] >= step * group and key[1] % group == micro:
            nothing = value * 0
            value = value + (
                nothing.sqrt() if kind == "gradient" else nothing / nothing
            )  # the root's slope at 0 is infinite
        return value

    patch.setattr(PretrainTask, "training_step", loss)


def failed(made: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Trains, expects the numeric error, and returns it and the capsule."""
    assert train(made) == 5
    folder = Path(made["results_dir"])
    [path] = (folder / "train").glob("nonfinite_step_*.pth")
    return read(folder, "error.json"), checkpoint.read(path)


@pytest.mark.parametrize("kind", ["loss", "gradient"])
def test_a_gradient_that_is_not_finite_stops_the_run_though_the_loss_is(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Two micro-batches a step; the second is at fault, and the capsule holds that one and the
    weights before the step."""
    with monkeypatch.context() as patch:
        bad_loss(patch, 2, kind, micro=1)
        error, capsule = failed(
            spec(data, tmp_path / "job", dataset__batch_size=2, train__accum_grad_batches=2)
        )
    assert f"the {kind} became nan at step 2" in error["message"]
    assert capsule["step"] == 2 and capsule["seed_key"][:3] == [1234, 0, 5]
    norms = torch.tensor(list(capsule["gradient_norms"].values()))
    assert norms.isnan().any()
    good = spec(
        data,
        tmp_path / "good",
        dataset__batch_size=2,
        train__accum_grad_batches=2,
        train__num_epochs=1,
    )
    assert (
        train(
            good
            | {
                "train": {
                    **good["train"],
                    "checkpoint_interval": 2,
                    "checkpoint_interval_unit": "step",
                }
            }
        )
        == 0
    )
    before = checkpoint.read(tmp_path / "good/train/model_epoch_000_step_00002.pth")["state_dict"]
    assert all(torch.equal(before[name], value) for name, value in capsule["state_dict"].items())
    assert sorted(curve(tmp_path / "job")) == [1, 2]


@pytest.mark.parametrize("kind", ["loss", "gradient"])
def test_numbers_read_every_few_steps_find_the_same_step_and_the_same_weights(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    found = {}
    for name in ("at-once", "later"):
        with monkeypatch.context() as patch:
            fused(patch, deferred=name == "later")
            bad_loss(patch, 3, kind)
            found[name] = failed(
                spec(data, tmp_path / name, train__num_epochs=5, dataset__batch_size=1)
            )
    (first, one), (second, other) = found["at-once"], found["later"]
    assert first["message"] == second["message"] and "at step 3" in first["message"]
    assert one["seed_key"] == other["seed_key"] and torch.equal(
        one["batch"]["index"], other["batch"]["index"]
    )
    assert all(
        torch.equal(one["state_dict"][name], value) for name, value in other["state_dict"].items()
    )
    assert all(value.isfinite().all() for value in other["state_dict"].values())
    assert curve(tmp_path / "at-once") == curve(tmp_path / "later")
    assert not list((tmp_path / "later").rglob("model_epoch_*")), (
        "nothing is saved after a step that was not finite"
    )


def test_numbers_read_every_few_steps_are_those_of_every_step(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {
        "train__num_epochs": 3,
        "dataset__batch_size": 1,
        "dataset__val_data_sources": str(data),
        "train__clip_grad_norm": 1.0,
    }
    for name in ("at-once", "later"):
        with monkeypatch.context() as patch:
            fused(patch, deferred=name == "later")
            assert train(spec(data, tmp_path / name, **changes)) == 0
    for name in SERIES:
        assert curve(tmp_path / "at-once", name) == curve(tmp_path / "later", name), name
    assert len(curve(tmp_path / "later")) == 36


def test_a_state_of_a_cpu_goes_on_with_the_kernel_of_a_gpu(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = spec(data, tmp_path / "job", train__num_epochs=1)
    assert train(made) == 0
    fused(monkeypatch, deferred=True)
    assert train(made, "train.num_epochs=2") == 0
    state = checkpoint.read(tmp_path / "job/train/model_epoch_001.pth")["optimizer_states"][0]
    assert all(group["fused"] for group in state["param_groups"])
    assert {float(entry["step"]) for entry in state["state"].values()} == {6.0}


class Killed(BaseException):
    pass


def half(patch: pytest.MonkeyPatch, growth: int) -> None:
    """Real fp16 autocast on the CPU, with a scale so high that it has to fall, and a growth that
    comes soon."""
    for module in (fabric, loop):
        patch.setattr(module, "precision_of", lambda train, device: ("16-mixed", "precision fp16"))
    whole = fabric.MixedInputs.__init__

    def init(self: Any, precision: Any, device: str) -> None:
        whole(
            self,
            precision,
            device,
            torch.amp.GradScaler(device, init_scale=2.0**40, growth_interval=growth),
        )

    patch.setattr(fabric.MixedInputs, "__init__", init)


def test_the_scaler_of_fp16_goes_on_where_it_was(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {
        "train__num_epochs": 8,
        "dataset__batch_size": 2,
        "train__checkpoint_interval": 5,
        "train__checkpoint_interval_unit": "step",
    }
    half(monkeypatch, growth=4)
    made = spec(
        data, tmp_path / "whole", train__clip_grad_norm=1.0, train__optim__lr=1e-3, **changes
    )
    assert train(made) == 0
    norms = curve(tmp_path / "whole", "grad_norm")
    assert 0 < len(norms) < 48, "steps whose gradients overflow are skipped, and no error"
    parts = spec(
        data, tmp_path / "parts", train__clip_grad_norm=1.0, train__optim__lr=1e-3, **changes
    )
    whole = loop.TrainLoop._train_step

    def step(self: Any, *args: Any) -> None:
        whole(self, *args)
        if self.position.step == 32:
            self.trackers.flush()
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(loop.TrainLoop, "_train_step", step)
        with pytest.raises(Killed):
            train(parts)
    assert train(parts) == 0
    for name in SERIES:
        assert curve(tmp_path / "whole", name) == curve(tmp_path / "parts", name), name
    last = [
        checkpoint.read(tmp_path / name / "train/model_epoch_007.pth")
        for name in ("whole", "parts")
    ]
    assert last[0]["precision_state"] == last[1]["precision_state"] != {}
    assert all(
        torch.equal(last[0]["state_dict"][key], last[1]["state_dict"][key])
        for key in last[0]["state_dict"]
    )


def test_a_loss_that_is_not_finite_stops_fp16_too_with_the_weights_before_it(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    half(monkeypatch, growth=1000)
    found = {}
    for name in ("at-once", "later"):
        with monkeypatch.context() as patch:
            fused(patch, deferred=name == "later")
            bad_loss(patch, 30, "loss")
            found[name] = failed(
                spec(data, tmp_path / name, train__num_epochs=10, dataset__batch_size=1)
            )
    assert "the loss became nan at step 30" in found["later"][0]["message"]
    one, other = found["at-once"][1]["state_dict"], found["later"][1]["state_dict"]
    assert all(torch.equal(one[name], value) for name, value in other.items())
