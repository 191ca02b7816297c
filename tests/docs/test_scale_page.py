"""references/scale.md says what benchmarks/scale.py works out."""

from __future__ import annotations

import re
from pathlib import Path

from benchmarks import scale

PAGE = (Path(__file__).parents[2] / "references" / "scale.md").read_text(encoding="utf-8")


def test_the_table_of_the_page_is_the_one_of_the_program() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("|")]
    assert rows == scale.table_of_page()


def test_the_text_of_the_page_has_the_figures_of_the_program() -> None:
    passes, beside, cores = [], [], []
    for arch, name in scale.ARCHS.items():
        facts, (row,) = scale.rows(arch, 50, (8,))
        passes.append(f"{facts['work'] * 1e3:.1f} ms for {name}")
        beside.append(f"{facts['beside'] * 1e3:.1f}")
        cores.append(f"{row.cores:.0f}")
    text = re.sub(r"\s+", " ", PAGE)
    assert f"({', '.join(passes)})" in text
    assert f"({beside[0]}, {beside[1]} and {beside[2]} ms)" in text
    assert f"ViT-B takes {cores[0]} cores for 8 GPUs" in text
    assert f"ViT-L takes {cores[1]}." in text


def test_eight_ports_of_a_node_hide_what_one_port_does_not() -> None:
    for arch in scale.ARCHS:
        _, (one,) = scale.rows(arch, 50, (64,))
        _, (eight,) = scale.rows(arch, 400, (64,))
        assert one.efficiency < 0.6 and eight.efficiency == 1
        assert one.cores < eight.cores  # of a GPU that waits, fewer would do
