"""What we use of ``lightning_fabric``, imported without torchmetrics.

Fabric imports torchmetrics to compare its version, and for nothing else. With all that it loads in
turn (transformers, scipy.signal, matplotlib) that took 3.0 of the 9.8 s in which a runner imports
everything.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType


@contextlib.contextmanager
def _known_by_version(name: str) -> Iterator[None]:
    """In this context ``import name`` gives a module that has a ``__version__`` and no more."""
    if name in sys.modules:
        yield
        return
    stand_in = ModuleType(name)
    try:
        stand_in.__dict__["__version__"] = version(name)
    except PackageNotFoundError:
        yield
        return

    sys.modules[name] = stand_in
    try:
        yield
    finally:
        del sys.modules[name]


with _known_by_version("torchmetrics"):
    from lightning_fabric import Fabric
    from lightning_fabric.plugins.environments.lightning import LightningEnvironment
    from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
    from lightning_fabric.plugins.precision.amp import MixedPrecision
    from lightning_fabric.plugins.precision.precision import Precision
    from lightning_fabric.strategies.ddp import DDPStrategy
    from lightning_fabric.strategies.model_parallel import ModelParallelStrategy

__all__ = [
    "DDPStrategy",
    "Fabric",
    "LightningEnvironment",
    "MixedPrecision",
    "ModelParallelStrategy",
    "Precision",
    "TorchElasticEnvironment",
]
