"""SIGTERM and SIGUSR1 at any moment of a run: what there is to keep is kept, the exit code is 75,
the next attempt goes on."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from mae_runners.tasks import pretrain, probes
from mae_runners.tasks.base import Task
from mae_runners.training import loop, preemption
from mae_sdk.run.process_group import start_and_watch

from tests.support.training import command, curve, digits_folder, read, spec, status_lines, train

PREEMPTED = 75


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return digits_folder(tmp_path_factory.mktemp("digits"))


def signaled(
    patch: pytest.MonkeyPatch, owner: Any, name: str, call: int = 1, number: int = signal.SIGTERM
) -> list[int]:
    """Sends this process a signal at the beginning of the `call`-th call of a function; returns a
    list with an entry a call."""
    whole, calls = getattr(owner, name), []

    def wrapped(*args: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == call:
            os.kill(os.getpid(), number)
        return whole(*args, **options)

    patch.setattr(owner, name, wrapped)
    return calls


def stopped(made: dict[str, Any]) -> None:
    """Trains and expects the exit of a run that was stopped: no failure, no result."""
    assert train(made) == PREEMPTED
    folder = Path(made["results_dir"])
    assert not (folder / "error.json").exists() and not (folder / "train/result.json").exists()
    lines = status_lines(folder) if (folder / "status.json").exists() else []
    assert not lines or lines[-1]["status"] in ("STARTED", "RUNNING")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
@pytest.mark.parametrize(
    "owner, name",
    [
        ("mae_runners.__main__", "resolve"),
        ("pretrain", "build_dataset"),
        ("pretrain", "build_mae"),
        ("loop", "make_fabric"),
    ],
)
def test_a_signal_before_training_ends_the_run_at_once_with_nothing_to_save(
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    owner: str,
    name: str,
    number: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import mae_runners.__main__ as program

    places = {"mae_runners.__main__": program, "pretrain": pretrain, "loop": loop}
    before = [signal.getsignal(n) for n in preemption.SIGNALS]
    made = spec(data, tmp_path / "job", train__num_epochs=1)
    with monkeypatch.context() as patch:
        signaled(patch, places[owner], name, number=number)
        stopped(made)
    assert "nothing to save" in capsys.readouterr().err
    assert not list((tmp_path / "job").rglob("*.pth"))
    assert [signal.getsignal(n) for n in preemption.SIGNALS] == before, "the signals are given back"
    assert train(made) == 0


def test_a_signal_that_a_library_swallows_before_training_ends_the_run_as_one_does(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A library may take it for a fault of its own import, and fail later for what it lacks."""

    def swallowed(*_: Any, **__: Any) -> None:
        with contextlib.suppress(BaseException):
            signal.raise_signal(signal.SIGTERM)
        raise AttributeError("module 'numpy' has no attribute 'matrix'")

    made = spec(data, tmp_path / "job", train__num_epochs=1)
    with monkeypatch.context() as patch:
        patch.setattr(pretrain, "build_mae", swallowed)
        stopped(made)
    assert "nothing to save" in capsys.readouterr().err
    assert not (tmp_path / "job/error.json").exists()


def test_a_signal_during_an_import_waits_for_its_end(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An exception in the middle of it makes libraries of C++ abort, others are half loaded."""
    (tmp_path / "slow_library.py").write_text(
        "import signal, time\nsignal.raise_signal(signal.SIGTERM)\ntime.sleep(0.3)\nwhole = True\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    found = []

    def loads(*_: Any, **__: Any) -> None:
        import slow_library

        found.append(slow_library.whole)
        time.sleep(10)

    made = spec(data, tmp_path / "job", train__num_epochs=1)
    began = time.monotonic()
    with monkeypatch.context() as patch:
        patch.setattr(pretrain, "build_mae", loads)
        stopped(made)
    assert found == [True] and time.monotonic() - began < 9
    assert "nothing to save" in capsys.readouterr().err


def test_a_signal_just_before_the_first_step_saves_nothing_and_one_in_it_saves_the_step(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = spec(data, tmp_path / "job", train__num_epochs=1)
    with monkeypatch.context() as patch:
        signaled(patch, loop.TrainLoop, "_stop_wanted")
        patch.setattr(preemption.Preemption, "begin", lambda self: setattr(self, "training", True))
        stopped(made)
    assert "nothing was trained" in capsys.readouterr().err and not list(
        (tmp_path / "job").rglob("*.pth")
    )
    with monkeypatch.context() as patch:
        signaled(patch, loop.TrainLoop, "_train_step")
        stopped(made)
    assert [path.name for path in (tmp_path / "job/train").glob("model_epoch_*")] == [
        "model_epoch_000_step_00001.pth"
    ]
    with monkeypatch.context() as patch:  # resumed, and stopped again before it did anything
        signaled(patch, Task, "train_loader")
        signaled(patch, loop.TrainLoop, "_train_epoch")
        stopped(made)
    assert sorted(curve(tmp_path / "job")) == [1, 2]
    assert train(made) == 0 and sorted(curve(tmp_path / "job")) == [1, 2, 3]


OPTIONS = {
    "train__num_epochs": 3,
    "train__ema_decay": 0.9,
    "train__early_stopping__patience": 2,
    "train__probe__interval": 1,
}
WHERE = {
    "validation": (Task, "to_device", 5),
    "probe": (probes, "features", 3),
    "pictures": (probes, "reconstructions", 2),
}


@pytest.mark.parametrize("where", WHERE)
def test_a_signal_during_an_evaluation_is_noticed_after_a_batch_and_the_epoch_is_judged_again(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    changes = {
        **OPTIONS,
        "dataset__val_data_sources": str(data),
        "dataset__probe_train_data_sources": str(data),
    }
    assert train(spec(data, tmp_path / "whole", **changes)) == 0
    made = spec(data, tmp_path / "job", **changes)
    owner, name, call = WHERE[where]
    with monkeypatch.context() as patch:
        calls = signaled(patch, owner, name, call)
        stopped(made)
    if where == "validation":  # three batches of training, then the second of three of validation
        assert len(calls) == 5
    assert train(made) == 0
    for series in ("train_loss_step", "train_loss", "val_loss", "knn_acc", "linear_acc", "lr"):
        assert curve(tmp_path / "whole", series) == curve(tmp_path / "job", series), series
    assert (
        read(tmp_path / "job", "train/result.json")["kpis"]
        == read(tmp_path / "whole", "train/result.json")["kpis"]
    )


def test_a_signal_to_the_whole_group_does_not_take_the_loaders_workers_first(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = spec(
        data,
        tmp_path / "job",
        train__num_epochs=3,
        dataset__num_workers_per_gpu=1,
        dataset__batch_size=1,
    )
    whole = loop.TrainLoop._train_step

    def step(self: Any, *args: Any) -> None:
        if self.position.step == 4:
            workers = multiprocessing.active_children()
            assert workers
            pids = [str(process.pid) for process in (*workers, multiprocessing.current_process())]
            subprocess.run(["kill", "-TERM", *pids], check=True)
        whole(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(loop.TrainLoop, "_train_step", step)
        stopped(made)
    assert [path.name for path in (tmp_path / "job/train").glob("model_epoch_*")] == [
        "model_epoch_000_step_00005.pth"
    ]


def test_an_error_ends_a_run_with_workers(data: Path, tmp_path: Path) -> None:
    """Its workers end with it, though the traceback still holds the loader when the interpreter
    ends."""
    code = (
        "import sys\nfrom mae_runners.training import loop\n"
        "def step(self, *a): raise ValueError('no step')\nloop.TrainLoop._train_step = step\n"
        "from mae_runners.__main__ import main\ncode = main(sys.argv[1:])\n"
        "kept = sys.exc_info()\nsys.exit(code)\n"
    )
    made = spec(data, tmp_path / "job", dataset__num_workers_per_gpu=1, dataset__batch_size=1)
    done = subprocess.run(
        [sys.executable, "-c", code, *command(made)[3:]],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1, done.stderr
    assert "no step" in read(tmp_path / "job", "error.json")["message"]


def test_a_signal_after_the_last_step_does_not_keep_the_result_from_being_written(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mae_runners.__main__ as program

    with monkeypatch.context() as patch:
        calls = signaled(patch, program, "write_json")
        assert train(spec(data, tmp_path / "job", train__num_epochs=1)) == 0
    assert calls and read(tmp_path / "job", "train/result.json")["kpis"]


def test_the_launcher_of_several_ranks_passes_a_preemption_signal_on(tmp_path: Path) -> None:
    """SIGUSR1 to the launcher alone, by default the end of it and of all its ranks, becomes an
    orderly stop."""
    sent: list[int] = []
    ready = tmp_path / "ready"

    def tick() -> bool:
        if not sent and ready.exists():
            sent.append(1)
            os.kill(os.getpid(), signal.SIGUSR1)
        return False

    script = f"trap 'exit {PREEMPTED}' TERM; touch {ready}; while :; do sleep 0.05; done"
    outcome = start_and_watch(
        ["sh", "-c", script], 2, dict(os.environ), tick=tick, tick_seconds=0.05
    )
    assert outcome.exit_code == PREEMPTED and outcome.stopped
