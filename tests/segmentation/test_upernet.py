"""The network: against a plain reading of the papers, levels in pyramid order, statistics over the
whole batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from mae_runners.models import build_from_config, load_pretrained
from mae_runners.models.heads import AveragePool, BatchNorm
from mae_skill.errors import SpecError
from torch import Tensor, nn

from tests.support.models import SMALL, build, classifier_config, mae_config, relative
from tests.support.segmentation import awake, segmenter_config

State = dict[str, Tensor]


def conv_norm_relu(state: State, name: str, x: Tensor) -> Tensor:
    """Convolution, batch normalization with running statistics, ReLU."""
    weight = state[f"{name}.0.weight"]
    x = F.conv2d(x, weight, padding=weight.shape[-1] // 2)
    mean, var = state[f"{name}.1.running_mean"], state[f"{name}.1.running_var"]
    x = (x - mean.view(1, -1, 1, 1)) / (var.view(1, -1, 1, 1) + 1e-5).sqrt()
    return F.relu(
        x * state[f"{name}.1.weight"].view(1, -1, 1, 1) + state[f"{name}.1.bias"].view(1, -1, 1, 1)
    )


def bilinear(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=False)


def plain_upernet(state: State, maps: list[Tensor]) -> Tensor:
    """Sections 3.2 of arXiv 1807.10221 and 1612.01105, line by line: pooling, lateral paths from
    coarse to fine, fusion at the finest."""
    c2, c3, c4, c5 = maps
    pooled = [c5]
    for i, scale in enumerate((1, 2, 3, 6)):
        pooled.append(
            bilinear(
                conv_norm_relu(
                    state, f"uper.pooling.branches.{i}.1", F.adaptive_avg_pool2d(c5, scale)
                ),
                c5,
            )
        )
    p5 = conv_norm_relu(state, "uper.pooling.fuse", torch.cat(pooled, dim=1))
    p4 = conv_norm_relu(state, "uper.lateral.2", c4) + bilinear(p5, c4)
    p3 = conv_norm_relu(state, "uper.lateral.1", c3) + bilinear(p4, c3)
    p2 = conv_norm_relu(state, "uper.lateral.0", c2) + bilinear(p3, c2)
    outputs = [conv_norm_relu(state, f"uper.smooth.{i}", p) for i, p in enumerate((p2, p3, p4))] + [
        p5
    ]
    fused = conv_norm_relu(state, "uper.fuse", torch.cat([bilinear(p, c2) for p in outputs], dim=1))
    return F.conv2d(fused, state["uper.classify.1.weight"], state["uper.classify.1.bias"])


@pytest.mark.parametrize("arch", SMALL)
def test_the_head_is_the_papers(arch: str) -> None:
    model = awake(arch)
    images = torch.randn(2, 3, 64, 96)
    state = dict(model.state_dict())
    with torch.no_grad():
        maps = model.levels(images)
        assert [tuple(x.shape[-2:]) for x in maps] == [(16, 24), (8, 12), (4, 6), (2, 3)], (
            "strides 4, 8, 16, 32"
        )
        wanted = F.interpolate(
            plain_upernet(state, maps), size=(64, 96), mode="bilinear", align_corners=False
        )
        assert relative(model(images), wanted) < 1e-5
        extra = F.conv2d(
            conv_norm_relu(state, "auxiliary.0", maps[2]),
            state["auxiliary.2.weight"],
            state["auxiliary.2.bias"],
        )
        again = model.auxiliary(maps[2])
    assert relative(again, extra) < 1e-5


def test_vit_gives_blocks_3_5_7_and_11_of_12_rescaled_by_4_2_1_and_a_half() -> None:
    model = build(segmenter_config("vit_tiny_patch16", (64, 64)))
    seen: dict[int, Tensor] = {}
    for i, block in enumerate(model.encoder.blocks):
        block.register_forward_hook(
            lambda _, __, out, i=i: seen.__setitem__(
                i, out[:, 1:].transpose(1, 2).reshape(1, -1, 4, 4)
            )
        )
    with torch.no_grad():
        maps = model.encoder.pyramid(torch.randn(1, 3, 64, 64))
        for level, block in zip(maps, (3, 5, 7, 11), strict=True):
            assert torch.equal(level, seen[block])
        double = model.neck[1]
        wanted = F.conv_transpose2d(maps[1], double.weight, double.bias, stride=2)
        assert relative(model.neck[1](maps[1]), wanted) < 1e-5
        assert torch.equal(model.neck[2](maps[2]), maps[2])
        assert torch.equal(model.neck[3](maps[3]), F.max_pool2d(maps[3], 2))
        assert model.neck[0](maps[0]).shape[-2:] == (16, 16)


@pytest.mark.parametrize(
    ("depth", "wanted"),
    [(24, (7, 11, 15, 23)), (32, (9, 15, 20, 31)), (4, (0, 1, 1, 3)), (1, (0, 0, 0, 0))],
)
def test_the_blocks_are_scaled_for_other_depths(depth: int, wanted: tuple[int, ...]) -> None:
    model = build(
        segmenter_config("vit_tiny_patch16", (32, 32), embed_dim=8, num_heads=1, depth=depth)
    )
    seen: dict[int, Tensor] = {}
    for i, block in enumerate(model.encoder.blocks):
        block.register_forward_hook(
            lambda _, __, out, i=i: seen.__setitem__(
                i, out[:, 1:].transpose(1, 2).reshape(1, -1, 2, 2)
            )
        )
    with torch.no_grad():
        maps = model.encoder.pyramid(torch.randn(1, 3, 32, 32))
    assert all(torch.equal(level, seen[block]) for level, block in zip(maps, wanted, strict=True))


@pytest.mark.parametrize("size", [(7, 7), (16, 16), (2, 3), (1, 5)])
@pytest.mark.parametrize("bins", [1, 2, 3, 6])
def test_pooling_by_products_is_adaptive_average_pooling(size: tuple[int, int], bins: int) -> None:
    x = torch.randn(2, 4, *size)
    assert relative(AveragePool(size, bins)(x), F.adaptive_avg_pool2d(x, bins)) < 1e-5


@pytest.mark.parametrize("arch", SMALL)
def test_every_parameter_gets_a_gradient_and_the_head_has_the_full_rate(arch: str) -> None:
    model = build_from_config(segmenter_config(arch, (64, 64))).train()
    outputs = model(torch.randn(2, 3, 64, 64))
    sum(out.square().mean() for out in outputs).backward()
    assert not [name for name, parameter in model.named_parameters() if parameter.grad is None]
    ids = model.layer_ids()
    assert all(
        layer == last for name, (layer, last) in ids.items() if not name.startswith("encoder.")
    )
    assert min(layer for layer, _ in ids.values()) <= 1 and all(
        layer < last for n, (layer, last) in ids.items() if n.startswith("encoder.")
    )


def test_without_a_weight_there_is_no_auxiliary_head() -> None:
    model = build_from_config(
        segmenter_config("vit_tiny_patch16", (32, 32), auxiliary_channels=0)
    ).train()
    assert model.auxiliary is None and len(model(torch.randn(2, 3, 32, 32))) == 1


def test_one_patch_is_no_pyramid() -> None:
    with pytest.raises(SpecError, match="two patches"):
        build_from_config(segmenter_config("vit_tiny_patch16", (16, 32)))


@pytest.mark.filterwarnings("error")
def test_statistics_over_ranks_are_those_of_the_whole_batch_and_so_are_their_gradients(
    tmp_path: Path,
) -> None:
    images = torch.randn(4, 3, 5, 5, dtype=torch.float32)
    plain, ours = nn.BatchNorm2d(3).train(), BatchNorm(3).train()
    results = []
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        for call in (plain, ours._over_ranks):
            x = images.clone().requires_grad_()
            out = call(x)
            (out * torch.arange(out.numel()).view_as(out).sin()).sum().backward()
            results.append((out, x.grad))
    finally:
        dist.destroy_process_group()
    for wanted, found in zip(*results, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.running_var, plain.running_var)


def test_a_channel_of_one_value_takes_the_running_statistics() -> None:
    norm = BatchNorm(3).train()
    norm.running_mean.fill_(1.0)
    norm.running_var.fill_(4.0)
    x = torch.randn(1, 3, 1, 1)
    assert relative(norm(x), (x - 1.0) / 2.0) < 1e-4
    assert norm.running_mean.tolist() == [1.0] * 3
    two = torch.randn(2, 3, 1, 1)
    assert (
        relative(norm(two), F.batch_norm(two, None, None, norm.weight, norm.bias, training=True))
        < 1e-5
    )


@pytest.mark.parametrize("arch", SMALL[:2])  # tests/long/segmentation has the third
def test_a_segmenter_starts_from_a_pretrained_encoder_and_moves_to_another_size_whole(
    tmp_path: Any, arch: str
) -> None:
    from mae_runners.models import checkpoint

    def save(model: Any, name: str) -> Any:
        meta = checkpoint.CheckpointMeta.for_model(model)
        checkpoint.save(
            {"state_dict": checkpoint.model_state(model), "mae": meta.to_dict()}, tmp_path / name
        )
        return tmp_path / name

    pretrained = build(mae_config(arch, (64, 64)), seed=3)
    model = build_from_config(segmenter_config(arch, (64, 96)))
    report = load_pretrained(model, save(pretrained, "mae.pth"))
    assert report.share == 1.0 and not report.unexpected
    assert [n for n in report.missing if n.startswith("encoder.")] == []
    report = load_pretrained(
        model, save(build(classifier_config(arch, (64, 64))), "classifier.pth")
    )
    assert report.share == 1.0 and not report.unexpected
    small = awake(arch, (64, 64))
    larger = build_from_config(segmenter_config(arch, (96, 128)))
    report = load_pretrained(larger, save(small, "segmenter.pth"))
    assert report.share == 1.0 and not report.missing and not report.ignored
    ours, theirs = larger.state_dict(), small.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours if "running_" in name)
    loaded, meta = checkpoint.load_model(tmp_path / "segmenter.pth")
    assert meta.task == "segmentation" and meta.num_classes == 5
    with torch.no_grad():
        images = torch.randn(1, 3, 64, 64)
        assert torch.equal(loaded(images), small(images))
    other = build_from_config(segmenter_config(arch, (64, 64), num_classes=3))
    report = load_pretrained(other, tmp_path / "segmenter.pth")
    assert any("classify" in name for name in report.ignored), "the file has 5 classes, the model 3"
    back = load_pretrained(
        build_from_config(classifier_config(arch, (64, 64))), tmp_path / "segmenter.pth"
    )
    assert back.share == 1.0 and not back.unexpected
