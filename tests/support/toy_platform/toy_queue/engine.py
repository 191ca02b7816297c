"""``python -m toy_queue.engine SPOOL``: run the requests of a folder, a few at a time.

It knows nothing of mae-skill. Of request N it reads ``N.request`` (argv, env; removed when it
starts), ``N.cancel`` and ``N.preempt``, and writes ``N.state`` (QUEUED, RUNNING, or ENDED and the
exit code) and ``N.out`` (what the command printed). A command that ends with 75 is queued again.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any


class Engine:
    def __init__(self, spool: Path, slots: int) -> None:
        self.spool, self.slots = spool, slots
        self.queue: list[tuple[str, dict[str, Any]]] = []
        self.running: dict[str, tuple[dict[str, Any], subprocess.Popen[bytes]]] = {}

    def note(self, number: str, state: str) -> None:
        temporary = self.spool / f"{number}.state.part"
        temporary.write_text(state)
        temporary.rename(self.spool / f"{number}.state")

    def step(self) -> None:
        for path in sorted(self.spool.glob("*.request")):
            self.queue.append((path.stem, json.loads(path.read_text())))
            path.unlink()

        for number, _ in [item for item in self.queue if self.asked(item[0], "cancel")]:
            self.queue = [item for item in self.queue if item[0] != number]
            self.note(number, "ENDED canceled in the queue")

        while self.queue and len(self.running) < self.slots:
            number, request = self.queue.pop(0)
            with (self.spool / f"{number}.out").open("ab") as out:
                try:
                    process = subprocess.Popen(
                        request["argv"],
                        env=request["env"],
                        stdin=subprocess.DEVNULL,
                        stdout=out,
                        stderr=out,
                        start_new_session=True,
                    )
                except OSError as error:
                    out.write(f"queue: cannot start: {error}\n".encode())
                    self.note(number, "ENDED 127")
                    continue
            self.running[number] = (request, process)
            self.note(number, f"RUNNING {process.pid}")

        for number, (request, process) in list(self.running.items()):
            if self.asked(number, "cancel") or self.asked(number, "preempt"):
                process.terminate()
            code = process.poll()
            if code is not None:
                del self.running[number]
                self.note(number, "QUEUED" if code == 75 else f"ENDED {code}")
                if code == 75:
                    self.queue.append((number, request))

    def asked(self, number: str, what: str) -> bool:
        path = self.spool / f"{number}.{what}"
        found = path.exists()
        path.unlink(missing_ok=True)
        return found


def main() -> None:
    engine = Engine(Path(sys.argv[1]), int(os.environ.get("QUEUE_SLOTS", "4")))
    while not (engine.spool / "stop").exists():
        engine.step()
        time.sleep(0.02)


if __name__ == "__main__":
    main()
