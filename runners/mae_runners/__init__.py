"""Models, training, evaluation, deployment. The only package that imports torch."""

import os
import sys

# As in mae_sdk: `python -m mae_runners …` imports nothing of the folder that it is called in.
if sys.argv[:1] == ["-m"] and any(word.startswith(__name__) for word in sys.orig_argv):
    if not getattr(sys.flags, "safe_path", False):
        del sys.path[0]
    os.environ["PYTHONSAFEPATH"] = "1"
