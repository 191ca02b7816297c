"""``python -m mae_sdk.run.warm_client COMMAND…``: run a command in a fork of the warm runner.

The supervisor starts this in place of the command. It hands its working directory, environment,
arguments and output to the warm runner at ``MAE_WARM_SOCKET``, forwards signals and ends with the
run's exit code. Where no warm runner answers it becomes the command itself. Standard library only.
"""

from __future__ import annotations

import array
import contextlib
import json
import os
import signal
import socket
import sys
from pathlib import Path
from types import FrameType

from mae_sdk.run.process_group import safe_path


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code (128 + signal where a signal ended it)."""
    command = sys.argv[1:] if argv is None else argv
    path = os.environ.pop("MAE_WARM_SOCKET", "")
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(path)
        request = {"argv": command, "cwd": str(Path.cwd()), "env": dict(os.environ)}
        body = json.dumps(request).encode()
        descriptors = array.array("i", [1, 2])
        connection.sendmsg(
            [len(body).to_bytes(8, "big")], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)]
        )
        connection.sendall(body)
        stream = connection.makefile("r")
        answer = json.loads(stream.readline())
        if "refused" in answer:
            print(
                f"the warm runner does not take this run ({answer['refused']}): it starts cold",
                file=sys.stderr,
                flush=True,
            )
        pid = int(answer["pid"])
    except (OSError, ValueError, KeyError):
        connection.close()
        os.execvpe(command[0], command, safe_path(os.environ, command))

    def forward(number: int, frame: FrameType | None) -> None:
        with contextlib.suppress(OSError):
            os.kill(pid, number)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, forward)
    last = stream.readline()
    if not last:
        print("the warm runner ended before the run did", file=sys.stderr)
        return 8
    code = int(json.loads(last)["exit_code"])
    if code < 0:  # end as the run ended, so that the supervisor sees the signal
        signal.signal(-code, signal.SIG_DFL) if -code != signal.SIGKILL else None
        os.kill(os.getpid(), -code)
    return code


if __name__ == "__main__":
    raise SystemExit(main())
