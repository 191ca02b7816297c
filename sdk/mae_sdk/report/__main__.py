"""``python -m mae_sdk.report JOB_DIR [-]``: write a job's report, for who must not load what it
needs.

With ``-``, standard input says, as JSON, how the job is about to end.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from mae_sdk.report.make import Ending, refresh


def main(arguments: list[str]) -> int:
    """Write the report of one folder; 0 where it was written."""
    told = json.loads(sys.stdin.read() or "{}") if arguments[1:] == ["-"] else {}
    return 0 if refresh(Path(arguments[0]), Ending(**told) if told else None) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
