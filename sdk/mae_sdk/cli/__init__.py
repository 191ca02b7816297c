"""The ``mae`` command line: thin over `mae_sdk`, one file per group of commands."""

import os
import sys

# An empty entry of PYTHONPATH names the folder that `mae` is called in: as in
# `mae_sdk.run.process_group.safe_path`, nothing of it is imported.
if "" in (os.environ.get("PYTHONPATH") or "-").split(os.pathsep):
    sys.path[:] = [entry for entry in sys.path if entry not in ("", os.getcwd())]  # noqa: PTH109 - pathlib may be the file
