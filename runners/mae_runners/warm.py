"""``python -m mae_runners.warm SOCKET``: has imported torch, and forks a runner per request.

A cold runner spends seconds on imports, a fork some tens of milliseconds. This process never
touches CUDA and never runs a parallel operation, so that a fork starts as clean as a new process:
its environment, working directory, output and thread count are those of the request.

Why not the standard library's forkserver: with most of these modules preloaded its forks took 0.03
to 0.07 s, but only the process that started it can use it, and it ends with that process. A run is
started by the supervisor of its own job, which outlives the controller of the study, so every run
would load a forkserver of its own (22 s at that time: two busy cores), like a cold start.

Requests come from `mae_sdk.run.warm_client`, over a Unix socket that only this user can open:

``8 bytes of length, JSON {"argv", "cwd", "env"}`` with the descriptors of stdout and stderr
→ ``{"pid"}`` at once, ``{"exit_code"}`` at the end, or ``{"refused": reason}``.

A client that is killed takes its run with it, and so does this process (on Linux). The process ends
when told to (``{"end": true}``), or after ten idle minutes.
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import gc
import importlib
import json
import os
import random
import selectors
import signal
import socket
import sys
import time
import traceback
from pathlib import Path
from typing import Any

PRELOAD = (
    "torch",
    "numpy",
    "torchvision.transforms.v2",
    "timm",
    "torch.utils.tensorboard",
    "jsonschema",
    "mae_skill.spec",
    "mae_skill.bundle",
    "mae_skill.rules",
    "mae_skill.merge",
    "mae_skill.schema_check",
    "mae_runners.__main__",
    "mae_runners.context",
    "mae_runners.models",
    "mae_runners.data",
    "mae_runners.actions.train",
)
READ_AT_START = ("PYTHONPATH", "PYTHONHASHSEED", "LD_LIBRARY_PATH", "LD_PRELOAD")
"""Act only when a process starts; a request that changes one is refused and runs cold."""
_AT_START = {name: os.environ.get(name) for name in READ_AT_START}
"""Their values before anything was imported: OpenCV, for one, changes them for its process."""
IDLE_SECONDS = 600.0
_PR_SET_PDEATHSIG = 1
MAX_REQUEST = 16 << 20


def main(argv: list[str] | None = None) -> int:
    """Serve at the socket named on the command line until told to end or idle for long."""
    arguments = sys.argv[1:] if argv is None else argv
    if len(arguments) != 1:
        print("usage: python -m mae_runners.warm SOCKET", file=sys.stderr)
        return 2
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = (
        "1"  # asks for devices without creating a CUDA context
    )
    for name in PRELOAD:
        try:
            importlib.import_module(name)
        except ImportError as error:  # the run itself will say so, if it needs it
            print(f"not preloaded: {name}: {error}", file=sys.stderr)
    path = Path(arguments[0])
    listener = socket.socket(socket.AF_UNIX)
    old = os.umask(0o177)
    try:
        listener.bind(str(path))
    finally:
        os.umask(old)
    listener.listen(64)
    gc.collect()
    gc.freeze()  # forks share these pages
    try:
        _Server(listener).serve()
    finally:
        path.unlink(missing_ok=True)
    return 0


class _Server:
    def __init__(self, listener: socket.socket) -> None:
        import torch

        self.listener = listener
        self.pid = os.getpid()
        self.libc = ctypes.CDLL(None) if sys.platform.startswith("linux") else None
        self.threads = torch.get_num_threads()
        self.running: dict[int, socket.socket] = {}
        self.selector = selectors.DefaultSelector()
        self.selector.register(listener, selectors.EVENT_READ)
        self.ending = False
        self.wake, self.waker = socket.socketpair()
        for end in (self.wake, self.waker):
            end.setblocking(False)
        signal.set_wakeup_fd(self.waker.fileno())
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        self.selector.register(self.wake, selectors.EVENT_READ)

    def serve(self) -> None:
        last = time.monotonic()
        while not (self.ending and not self.running) and (
            self.running or time.monotonic() - last < IDLE_SECONDS
        ):
            for key, _ in self.selector.select(5.0):
                last = time.monotonic()
                if key.fileobj is self.listener:
                    self._accept()
                elif key.fileobj is self.wake:
                    with contextlib.suppress(BlockingIOError):
                        self.wake.recv(4096)
                else:
                    self._hung_up(key.fileobj)
            self._reap()

    def _accept(self) -> None:
        connection, _ = self.listener.accept()
        descriptors: list[int] = []
        try:
            connection.settimeout(5.0)
            request = _receive(connection, descriptors)
            if request is None or request.get("end"):
                self.ending = self.ending or request is not None
                connection.close()
                return
            refusal = _refusal(request, descriptors)
            if refusal:
                connection.sendall(json.dumps({"refused": refusal}).encode() + b"\n")
                connection.close()
                return
            pid = os.fork()
            if pid == 0:
                self._child(connection, request, descriptors)
            self.running[pid] = connection
            connection.sendall(json.dumps({"pid": pid}).encode() + b"\n")
            self.selector.register(connection, selectors.EVENT_READ)
        except (OSError, ValueError):
            traceback.print_exc()
            connection.close()
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def _hung_up(self, connection: Any) -> None:
        """The client is gone: its run goes with it."""
        self.selector.unregister(connection)
        for pid, owner in self.running.items():
            if owner is connection:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(pid, signal.SIGKILL)

    def _reap(self) -> None:
        while self.running:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            connection = self.running.pop(pid, None)
            if connection is None:
                continue
            with contextlib.suppress(OSError):
                connection.sendall(
                    json.dumps({"exit_code": os.waitstatus_to_exitcode(status)}).encode() + b"\n"
                )
            with contextlib.suppress(KeyError, ValueError):
                self.selector.unregister(connection)
            connection.close()

    def _child(
        self, connection: socket.socket, request: dict[str, Any], descriptors: list[int]
    ) -> None:
        """The fork: become the run that was asked for. Never returns."""
        code = 1
        try:
            os.setsid()
            if self.libc is not None:
                self.libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
                if os.getppid() != self.pid:
                    os._exit(1)
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _take_streams(*descriptors[:2])
            self.selector.close()
            for other in (self.listener, self.wake, self.waker, connection, *self.running.values()):
                other.close()
            os.chdir(request["cwd"])
            os.environ.clear()
            os.environ.update(request["env"])
            code = run(request["argv"], self.threads)
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        except BaseException:
            traceback.print_exc()
        finally:
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(OSError, ValueError):
                    stream.flush()
            os._exit(code)


def _take_streams(output: int, errors: int) -> None:
    """Make the run's output this process's, with streams of its own: those of the server remember
    that they wrote to a file, and a pipe cannot be asked where it stands."""
    for name, number, descriptor in (("stdout", 1, output), ("stderr", 2, errors)):
        os.dup2(descriptor, number)
        before = getattr(sys, name)
        after = os.fdopen(
            number,
            "w",
            buffering=1,
            encoding=before.encoding,
            errors=before.errors,
            closefd=False,
        )
        setattr(sys, name, after)


def run(argv: list[str], default_threads: int) -> int:
    """Run ``PYTHON -m mae_runners ACTION …`` in this process, with nothing of another run in it."""
    import numpy
    import torch

    from mae_runners.__main__ import main as runner

    sys.argv = argv[2:]
    random.seed()
    numpy.random.seed()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or default_threads))
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure:
            reconfigure(line_buffering=True)
    return runner(argv[3:])


def _receive(connection: socket.socket, descriptors: list[int]) -> dict[str, Any] | None:
    """One request and its descriptors; None when the other side only knocked."""
    found = array.array("i")
    head, ancillary, _, _ = connection.recvmsg(8, socket.CMSG_SPACE(2 * found.itemsize))
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            found.frombytes(data[: len(data) - len(data) % found.itemsize])
    descriptors.extend(found)
    if not head:
        return None
    size = int.from_bytes(head, "big")
    if len(head) != 8 or size > MAX_REQUEST:
        raise ValueError("not a request")
    body = b""
    while len(body) < size:
        part = connection.recv(size - len(body))
        if not part:
            raise ValueError("the request ends too early")
        body += part
    request = json.loads(body)
    if not isinstance(request, dict):
        raise ValueError("not a request")
    return request


def _refusal(request: dict[str, Any], descriptors: list[int]) -> str | None:
    """Why a request cannot run in a fork, or None."""
    argv, env = request.get("argv"), request.get("env")
    if (
        not isinstance(argv, list)
        or argv[1:3] != ["-m", "mae_runners"]
        or not isinstance(env, dict)
        or len(descriptors) != 2
    ):
        return "only `python -m mae_runners …` can be forked"
    if os.path.realpath(argv[0]) != os.path.realpath(sys.executable):
        return "another interpreter"
    for name in READ_AT_START:
        if env.get(name) != _AT_START[name]:
            return f"{name} differs"
    return None


if __name__ == "__main__":
    raise SystemExit(main())
