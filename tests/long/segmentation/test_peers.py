"""The head against `transformers`' UperNet with the same weights; two ranks against one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import ConvNextV2Config, UperNetConfig
from transformers.models.upernet.modeling_upernet import UperNetFCNHead, UperNetHead

from tests.support.models import relative
from tests.support.ranks import train_on_ranks
from tests.support.segmentation import PLAIN, awake, scenes, seg_spec
from tests.support.training import read, values

WIDTHS = (40, 80, 160, 320)


def renamed(state: dict[str, Tensor], ours: str, theirs: str) -> dict[str, Tensor]:
    """Convolution and batch normalization of one block under the peer's names."""
    parts = {"0.": "conv.", "1.": "batch_norm."}
    return {
        f"{theirs}.{parts[name[:2]]}{name[2:]}": value
        for full, value in state.items()
        if full.startswith(f"{ours}.")
        for name in [full.removeprefix(f"{ours}.")]
    }


def test_both_heads_are_those_of_transformers() -> None:
    model = awake("convnextv2_atto")
    backbone = ConvNextV2Config(
        hidden_sizes=list(WIDTHS), out_features=["stage1", "stage2", "stage3", "stage4"]
    )
    config = UperNetConfig(
        backbone_config=backbone,
        hidden_size=16,
        num_labels=5,
        auxiliary_channels=8,
        auxiliary_in_channels=WIDTHS[2],
        auxiliary_num_convs=1,
    )
    head, extra = (
        UperNetHead(config, list(WIDTHS)).eval(),
        UperNetFCNHead(config, list(WIDTHS)).eval(),
    )
    state = dict(model.state_dict())
    names = {"uper.pooling.fuse": "bottleneck", "uper.fuse": "fpn_bottleneck"}
    names |= {f"uper.pooling.branches.{i}.1": f"psp_modules.{i}.1" for i in range(4)}
    names |= {f"uper.lateral.{i}": f"lateral_convs.{i}" for i in range(3)} | {
        f"uper.smooth.{i}": f"fpn_convs.{i}" for i in range(3)
    }
    translated = {
        key: value
        for ours, theirs in names.items()
        for key, value in renamed(state, ours, theirs).items()
    }
    translated |= {
        f"classifier.{part}": state[f"uper.classify.1.{part}"] for part in ("weight", "bias")
    }
    head.load_state_dict(translated)
    extra.load_state_dict(
        renamed(state, "auxiliary.0", "convs.0")
        | {f"classifier.{part}": state[f"auxiliary.2.{part}"] for part in ("weight", "bias")}
    )
    with torch.no_grad():
        maps = model.levels(torch.randn(2, 3, 64, 96))
        assert relative(model.uper(maps), head(maps)) < 1e-5
        assert relative(model.auxiliary(maps[2]), extra(maps)) < 1e-5


@pytest.mark.timeout(900)
def test_two_ranks_of_two_images_train_as_one_rank_of_four_sharded_or_not(tmp_path: Path) -> None:
    # Five pictures to judge over two ranks in batches of two: rank 1's last batch holds nothing but
    # a filler.
    data = scenes(tmp_path / "scenes", training=8, validation=5)
    changes = {
        **PLAIN,
        "train__num_epochs": 2,
        "train__optim__lr": 1e-3,
        "train__optim__lr_scheduler": "cosine",
    }
    changes |= {"dataset__val_data_sources": str(data), "model__segmentation__dropout": 0.0}
    one = seg_spec(data, tmp_path / "one", **changes, dataset__batch_size=4)
    two = seg_spec(data, tmp_path / "two", **changes, dataset__batch_size=2, train__num_gpus=2)
    sharded = seg_spec(
        data,
        tmp_path / "sharded",
        **changes,
        dataset__batch_size=2,
        train__num_gpus=2,
        train__distributed_strategy="fsdp",
    )
    codes, said = train_on_ranks((one, 1), (two, 2), (sharded, 2))
    assert codes == [[0], [0, 0], [0, 0]], said[-3000:]
    first = read(tmp_path / "one", "train/result.json")["kpis"]
    for name in ("two", "sharded"):
        assert values(tmp_path / name) == pytest.approx(values(tmp_path / "one"), rel=1e-3)
        kpis = read(tmp_path / name, "train/result.json")["kpis"]
        assert kpis["val_loss"] == pytest.approx(first["val_loss"], rel=1e-3)
        assert kpis["mIoU"] == pytest.approx(first["mIoU"], abs=0.01)
