"""`train.compile`: the generated code of the CPU follows the eager curve."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.support.training import digits_folder, spec, train, values


@pytest.mark.skipif(
    shutil.which("g++") is None and shutil.which("clang++") is None,
    reason="the compiler needs a C++ toolchain",
)
@pytest.mark.parametrize("arch", ["vit_tiny_patch16", "convnextv2_atto", "hiera_tiny_224"])
def test_a_compiled_run_gives_the_losses_of_the_eager_one(tmp_path: Path, arch: str) -> None:
    data = digits_folder(tmp_path / "digits")
    losses = {}
    for compiled in (False, True):
        made = spec(
            data,
            tmp_path / str(compiled),
            "pretrain",
            arch,
            train__compile=compiled,
            train__num_epochs=3,
            train__optim__lr=1e-4,
        )
        assert train(made) == 0
        losses[compiled] = values(tmp_path / str(compiled))
    assert len(losses[True]) == 9
    assert losses[True] == pytest.approx(losses[False], rel=2e-3)
