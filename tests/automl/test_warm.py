"""The warm runner: a fork that behaves as a new process would."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# The real server, with a runner in place of training that tells what it sees.
SERVER = textwrap.dedent(
    """
    import json, os, random, signal, sys, time
    import mae_runners.warm as warm
    warm.PRELOAD = ("torch", "numpy")
    import types
    os.environ["LD_LIBRARY_PATH"] = "/set/by/a/library/as/it/is/imported"
    def main(argv):
        import numpy, torch
        from mae_sdk.run.output import whole_streams
        whole_streams()  # as the real runner does, whose streams are a pipe here
        seen = dict(argv=argv, env=dict(os.environ), cwd=os.getcwd(), threads=torch.get_num_threads(), session=os.getsid(0) == os.getpid(),
                    draws=[random.random(), numpy.random.rand()], torch=torch.rand(1).item(), leaked=getattr(torch, "leaked", False),
                    cuda=torch.cuda.is_initialized(), handler=signal.getsignal(signal.SIGCHLD) == signal.SIG_DFL)
        torch.leaked = True
        for stream in (sys.stdout, sys.stderr):  # as the runner does, for names of any bytes
            stream.reconfigure(errors="backslashreplace")
        print(json.dumps(seen))
        if "sleep" in argv: time.sleep(60)
        if "term" in argv: os.kill(os.getpid(), signal.SIGTERM); time.sleep(10)
        if "raise" in argv: raise RuntimeError("on purpose")
        return 75 if "preempt" in argv else 0
    sys.modules["mae_runners.__main__"] = types.SimpleNamespace(main=main)
    raise SystemExit(warm.main(sys.argv[1:]))
    """
)


def _start(path: Path) -> subprocess.Popen[bytes]:
    with path.with_suffix(".log").open("ab") as log:  # a file, as the platform gives it
        process = subprocess.Popen(
            [sys.executable, "-c", SERVER, str(path)], stdout=log, stderr=log
        )
    deadline = time.monotonic() + 60
    while not path.exists() and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.05)
    return process


@pytest.fixture(scope="module")
def server() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "warm.sock"
        process = _start(path)
        yield path
        body = b'{"end": true}'
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(path))
            connection.sendall(len(body).to_bytes(8, "big") + body)
        assert process.wait(20) == 0
        assert not path.exists()


def _client(
    server: Path, *words: str, cwd: Path | None = None, **env: str
) -> subprocess.Popen[str]:
    command = [
        sys.executable,
        "-m",
        "mae_sdk.run.warm_client",
        sys.executable,
        "-m",
        "mae_runners",
        *words,
    ]
    whole = {
        **{k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"},
        "MAE_WARM_SOCKET": str(server),
        **env,
    }
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=whole, cwd=cwd
    )


def _seen(server: Path, *words: str, **kwargs: Any) -> dict[str, Any]:
    client = _client(server, *words, **kwargs)
    out, err = client.communicate(timeout=60)
    assert client.returncode == 0, err
    return dict(json.loads(out))


def test_a_fork_has_its_own_environment_folder_arguments_threads_and_session(
    server: Path, tmp_path: Path
) -> None:
    seen = _seen(server, "train", "-e", "x.yaml", cwd=tmp_path, OMP_NUM_THREADS="1", MAE_MARK="a")
    assert seen["argv"] == ["train", "-e", "x.yaml"]
    assert seen["cwd"] == str(tmp_path) and seen["threads"] == 1 and seen["session"]
    assert seen["env"]["MAE_MARK"] == "a" and "MAE_WARM_SOCKET" not in seen["env"]
    assert not seen["cuda"] and seen["handler"]


def test_nothing_leaks_from_one_run_into_the_next(server: Path) -> None:
    first, second = (
        _seen(server, "train", MAE_MARK="a", OMP_NUM_THREADS="1"),
        _seen(server, "train"),
    )
    assert "MAE_MARK" not in second["env"] and not second["leaked"]
    assert second["threads"] == os.cpu_count() or second["threads"] >= 1
    assert first["draws"] != second["draws"]  # unseeded generators differ, as in new processes
    assert (
        first["torch"] == second["torch"]
    )  # torch starts from its documented default seed, as in new processes


def test_exit_codes_and_signals_come_back_as_from_a_process(server: Path) -> None:
    for words, code in (
        (["train", "preempt"], 75),
        (["train", "raise"], 1),
        (["train", "term"], -signal.SIGTERM),
    ):
        client = _client(server, *words)
        _, err = client.communicate(timeout=60)
        assert client.returncode == code
        assert ("on purpose" in err) == ("raise" in words)


def test_a_run_ends_with_its_client_and_a_signal_to_the_client_reaches_it(server: Path) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        client = _client(server, "train", "sleep")
        assert client.stdout is not None
        client.stdout.readline()
        begun = time.monotonic()
        client.send_signal(number)
        client.communicate(timeout=20)
        assert client.returncode == -number
        assert time.monotonic() - begun < 5


def test_a_fork_starts_in_a_fraction_of_a_second(server: Path) -> None:
    begun = time.monotonic()
    _seen(server, "train")
    assert time.monotonic() - begun < 1.0


def test_where_no_warm_runner_answers_or_it_refuses_the_command_runs_cold(
    server: Path, tmp_path: Path
) -> None:
    command = [
        sys.executable,
        "-m",
        "mae_sdk.run.warm_client",
        sys.executable,
        "-c",
        "print('cold')",
    ]
    for path in (tmp_path / "none.sock", server):
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            env={**os.environ, "MAE_WARM_SOCKET": str(path)},
            timeout=60,
        )
        assert (done.returncode, done.stdout) == (0, "cold\n")
        assert ("only `python -m mae_runners …` can be forked" in done.stderr) == (path == server)


def test_the_socket_lies_where_nobody_else_can_put_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mae_sdk.run.warm import socket_folder

    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    folder = socket_folder(str(tmp_path))
    assert folder is not None and folder.stat().st_mode & 0o777 == 0o700
    assert socket_folder(str(tmp_path)) == folder
    folder.chmod(0o755)
    assert socket_folder(str(tmp_path)) is None
    folder.rmdir()
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    folder.symlink_to(tmp_path / "elsewhere")
    assert socket_folder(str(tmp_path)) is None


def test_a_run_ends_with_the_warm_runner_so_that_a_retry_is_alone(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        process = _start(Path(folder) / "warm.sock")
        client = _client(Path(folder) / "warm.sock", "train", "sleep")
        assert client.stdout is not None
        client.stdout.readline()
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        assert len(children) == 1
        process.kill()
        process.wait()
        _, err = client.communicate(timeout=20)
        assert client.returncode == 8 and "ended before the run did" in err
        stat = Path(f"/proc/{children[0]}/stat")
        deadline = time.monotonic() + 20
        while (
            stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"
        ):  # gone, or waiting for somebody to look
            assert time.monotonic() < deadline
            time.sleep(0.05)
