"""The committed parity table: made again for one architecture per family, and complete for all."""

import importlib.util
import json
from pathlib import Path

import pytest
from mae_skill.archs import ARCHS

ROOT = Path(__file__).parents[3]
SPEC = importlib.util.spec_from_file_location("benchmark_parity", ROOT / "benchmarks" / "parity.py")
benchmark = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(benchmark)


@pytest.mark.parametrize("arch", list(ARCHS))
def test_onnx_agrees_with_torch_for_both_stages_and_two_sizes(arch, tmp_path):
    assert benchmark.main(["--archs", arch, "--images", "2", "-o", str(tmp_path / "parity")]) == 0


def test_the_committed_table_holds_every_architecture_stage_and_size_and_all_pass():
    rows = json.loads((ROOT / "benchmarks" / "results" / "parity.json").read_text())["rows"]
    wanted = {
        (arch.name, stage, tuple(size))
        for arch in ARCHS.values()
        for stage in benchmark.OPSETS
        for size in benchmark.sizes(arch)
    }
    assert {(row["arch"], row["stage"], tuple(row["size"])) for row in rows} == wanted
    assert all(row["passed"] for row in rows)
