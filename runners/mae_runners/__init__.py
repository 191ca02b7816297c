"""Models, training, evaluation, deployment. The only package that imports torch.

`load_model` opens a trained model in Python; torch is loaded when it is called.
"""

import os
import sys

# As in mae_sdk: `python -m mae_runners …` imports nothing of the folder that it is called in.
if sys.argv[:1] == ["-m"] and any(word.startswith(__name__) for word in sys.orig_argv):
    if not getattr(sys.flags, "safe_path", False):
        del sys.path[0]
    os.environ["PYTHONSAFEPATH"] = "1"

from typing import Any

__all__ = ["load_model"]


def load_model(source: "str | os.PathLike[str]", **options: Any) -> Any:
    """A trained model with ``predict``, ``embed`` and ``reconstruct``: see
    `mae_runners.deploy.loaded.load_model` for the options.

    Args:
        source: a job (id or folder), a checkpoint, an ONNX file, a folder that ``export`` wrote
            for timm or transformers, or an engine.
    """
    import importlib

    return importlib.import_module("mae_runners.deploy.loaded").load_model(source, **options)
