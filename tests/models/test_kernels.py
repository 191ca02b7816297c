"""Each kernel gives the values and gradients of its plain equivalent, and steps aside elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from mae_runners.models import kernels as module
from mae_runners.models.fcmae import stage_layout
from mae_runners.models.kernels import (
    Linear,
    depthwise_conv,
    gather_rows,
    global_response,
    linear,
    plain_depthwise_conv,
    plain_gather_rows,
    plain_global_response,
    plain_scatter_rows,
    scatter_rows,
    speed_up,
    sum_over_ranks,
)
from torch import Tensor

from tests.support.models import build, gradients, inputs, mae_config, relative

CALLS: list[tuple[int, ...]] = []


def results(
    function: Callable[..., Tensor],
    arguments: list[Tensor],
    dtype: torch.dtype = torch.float32,
) -> list[Tensor]:
    """The value of ``function`` and its gradient to each of ``arguments``, taken in ``dtype``."""
    leaves = [value.detach().to(dtype).requires_grad_() for value in arguments]
    y = function(*leaves)
    generator = torch.Generator().manual_seed(1)
    weights = torch.randn(y.shape, generator=generator, dtype=torch.float64).to(dtype)
    (y * weights).sum().backward()

    gradients = [leaf.grad for leaf in leaves if leaf.grad is not None]
    assert len(gradients) == len(leaves)
    return [y, *gradients]


def assert_agree(found: list[Tensor], expected: list[Tensor], tolerance: float) -> None:
    """Same shapes, and no value further off than ``tolerance`` of the largest."""
    for ours, plain in zip(found, expected, strict=True):
        assert ours.shape == plain.shape
        assert relative(ours.double(), plain.double()) < tolerance


# ---- depthwise convolution ---------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width", "kernel"), [(7, 5, 7), (1, 3, 7), (13, 28, 3)])
@pytest.mark.parametrize("channels_last", [False, True])
def test_a_depthwise_convolution_of_a_small_map_agrees_with_pytorchs(
    height: int, width: int, kernel: int, channels_last: bool
) -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 6, height, width)
    if channels_last:
        x = x.to(memory_format=torch.channels_last)
    arguments = [x, torch.randn(6, 1, kernel, kernel), torch.randn(6)]

    found = results(depthwise_conv, arguments)
    assert "_DepthwiseOnCpu" in type(found[0].grad_fn).__name__
    assert_agree(found, results(plain_depthwise_conv, arguments, torch.float64), 1e-6)


@pytest.mark.parametrize("channels_last", [False, True])
def test_a_depthwise_convolution_of_visible_units_agrees_with_pytorchs(channels_last: bool) -> None:
    torch.manual_seed(0)
    visible = torch.stack([torch.randperm(20)[:7].sort().values for _ in range(3)])
    layout = stage_layout(visible, (5, 4), 8)
    x = torch.randn(3, 6, 40, 32)
    if channels_last:
        x = x.to(memory_format=torch.channels_last)
    arguments = [x, torch.randn(6, 1, 7, 7), torch.randn(6)]

    def visible_cells(y: Tensor) -> Tensor:
        return y.permute(0, 2, 3, 1).reshape(-1, 6)[layout.cells]

    def ours(*values: Tensor) -> Tensor:
        y = depthwise_conv(*values, layout)
        assert "_DepthwiseOnCpu" in type(y.grad_fn).__name__
        return visible_cells(y)

    def plain(*values: Tensor) -> Tensor:
        return visible_cells(plain_depthwise_conv(*values))

    assert_agree(results(ours, arguments), results(plain, arguments, torch.float64), 1e-6)


def test_a_depthwise_convolution_in_bfloat16_agrees_to_its_rounding() -> None:
    torch.manual_seed(0)
    arguments = [torch.randn(2, 6, 7, 5), torch.randn(6, 1, 7, 7), torch.randn(6)]
    arguments = [value.bfloat16() for value in arguments]
    found = results(depthwise_conv, arguments, torch.bfloat16)
    assert_agree(found, results(plain_depthwise_conv, arguments, torch.float64), 2e-2)


def test_large_whole_maps_frozen_weights_and_autocast_keep_pytorchs_convolution() -> None:
    x, bias = torch.randn(1, 2, 29, 29, requires_grad=True), torch.zeros(2)
    weight = torch.randn(2, 1, 3, 3, requires_grad=True)
    small = x[:, :, :7, :7]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = depthwise_conv(small, weight, bias)
    for y in (depthwise_conv(x, weight, bias), depthwise_conv(small, weight.detach(), bias), mixed):
        assert "_DepthwiseOnCpu" not in type(y.grad_fn).__name__


# ---- global response normalization -------------------------------------------------------------


@pytest.mark.parametrize(
    "x",
    [
        torch.randn(3, 17, 5, generator=torch.Generator().manual_seed(0)),
        torch.randn(2, 1, 1, generator=torch.Generator().manual_seed(0)),
        torch.randn(3, 7, 13, generator=torch.Generator().manual_seed(0)).transpose(1, 2),
        torch.randn(3, 17, 10, generator=torch.Generator().manual_seed(0))[:, 1:, ::2],
    ],
    ids=["odd", "one value", "transposed", "strided"],
)
def test_global_response_agrees_with_the_papers_formula(x: Tensor) -> None:
    torch.manual_seed(0)
    arguments = [x, torch.randn(x.shape[2]), torch.randn(x.shape[2])]
    found = results(lambda *values: global_response(*values, 1e-6), arguments)
    expected = results(
        lambda *values: plain_global_response(*values, 1e-6), arguments, torch.float64
    )
    assert_agree(found, expected, 2e-6)


def test_global_response_of_a_channel_of_zeros_has_the_gradient_of_the_formula() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 9, 5)
    x[:, :, 3] = 0.0
    arguments = [x, torch.randn(5), torch.randn(5)]
    found = results(lambda *values: global_response(*values, 1e-6), arguments)
    expected = results(
        lambda *values: plain_global_response(*values, 1e-6), arguments, torch.float64
    )
    assert found[1].isfinite().all()
    assert_agree(found, expected, 2e-6)


def test_global_response_in_bfloat16_agrees_to_its_rounding() -> None:
    torch.manual_seed(0)
    arguments = [value.bfloat16() for value in (torch.randn(3, 17, 5), *torch.randn(2, 5))]
    found = results(lambda *values: global_response(*values, 1e-6), arguments, torch.bfloat16)
    expected = results(
        lambda *values: plain_global_response(*values, 1e-6), arguments, torch.float64
    )
    assert_agree(found, expected, 4e-2)


# ---- rows of a grid ----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("transposed", [False, True])
def test_rows_go_into_a_grid_and_come_out_as_by_indexing(
    dtype: torch.dtype, transposed: bool
) -> None:
    torch.manual_seed(0)
    index = torch.randperm(23)[:9]
    rows, grid = torch.randn(9, 5), torch.randn(23, 5)
    if transposed:
        rows, grid = rows.t().contiguous().t(), grid.t().contiguous().t()

    for ours, plain in (
        (
            results(lambda x: scatter_rows(x, index, 23), [rows], dtype),
            results(lambda x: plain_scatter_rows(x, index, 23), [rows], dtype),
        ),
        (
            results(lambda x: gather_rows(x, index), [grid], dtype),
            results(lambda x: plain_gather_rows(x, index), [grid], dtype),
        ),
    ):
        assert all(torch.equal(a, b) for a, b in zip(ours, plain, strict=True))


# ---- sums over ranks ---------------------------------------------------------------------------


def test_the_sum_over_one_rank_is_the_value_and_passes_its_gradient_on() -> None:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        x = torch.randn(7, 3)
        found = results(sum_over_ranks, [x])
    finally:
        dist.destroy_process_group()
    expected = results(lambda value: value.clone(), [x])
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


# ---- linear layers by oneDNN -------------------------------------------------------------------


@pytest.fixture
def onednn(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As on a processor where oneDNN is the faster one; counts the products."""
    if not torch.backends.mkldnn.is_available():
        pytest.skip("PyTorch without oneDNN")
    real = module._product

    def counted(x: torch.Tensor, *rest: Any) -> torch.Tensor:
        CALLS.append(tuple(x.shape))
        return real(x, *rest)

    monkeypatch.setattr(module, "onednn_is_faster", lambda: True)
    monkeypatch.setattr(module, "_product", counted)
    CALLS.clear()
    yield
    CALLS.clear()


@pytest.mark.usefixtures("onednn")
@pytest.mark.parametrize("shape", [(96, 64), (4, 24, 64), (2, 3, 16, 64)])
@pytest.mark.parametrize(("width", "bias"), [(48, True), (80, False)])
def test_values_and_gradients_are_those_of_double_precision(
    shape: tuple[int, ...], width: int, bias: bool
) -> None:
    torch.manual_seed(0)
    arguments = [torch.randn(shape), torch.randn(width, shape[-1])]
    if bias:
        arguments.append(torch.randn(width))

    found = results(linear, arguments)
    assert len(CALLS) == 3  # the product and two gradients
    assert_agree(found, results(F.linear, arguments, torch.float64), 1e-6)


@pytest.mark.usefixtures("onednn")
def test_a_transposed_input_and_a_sliced_weight_give_the_same_numbers() -> None:
    torch.manual_seed(0)
    x, weight, bias = torch.randn(64, 128).t(), torch.randn(96, 64)[32:], torch.randn(96)[32:]
    assert relative(linear(x, weight, bias), F.linear(x, weight, bias)) < 1e-6 and len(CALLS) == 1


@pytest.mark.usefixtures("onednn")
def test_what_needs_no_gradient_costs_no_product() -> None:
    x, weight = torch.randn(128, 64), torch.randn(64, 64, requires_grad=True)
    linear(x, weight).sum().backward()
    assert weight.grad is not None and len(CALLS) == 2
    frozen, x = weight.detach(), x.requires_grad_()
    linear(x, frozen).sum().backward()
    assert x.grad is not None and len(CALLS) == 4


@pytest.mark.usefixtures("onednn")
def test_other_types_sizes_and_modes_are_pytorchs_own() -> None:
    x, layer = torch.randn(128, 64), Linear(64, 64)
    double = layer.double()(x.double())
    assert torch.equal(double, F.linear(x.double(), layer.weight, layer.bias))
    layer.float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    layer(x[:2])  # too small to be worth it
    with torch.backends.mkldnn.flags(enabled=False):
        layer(x)
    traced = torch.jit.trace(layer, x, check_trace=False)
    program = torch.export.export(layer, (x,))
    assert "mkldnn" not in str(traced.inlined_graph) + str(program.graph)
    torch.compile(layer, backend="eager", fullgraph=True)(x)
    assert CALLS == []
    layer(x)
    assert len(CALLS) == 1


def test_an_intel_processor_or_one_without_avx512_keeps_mkl(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers = {}
    for capability, vendor in (
        ("AVX512", "GenuineIntel"),
        ("AVX2", "AuthenticAMD"),
        ("AVX512", "AuthenticAMD"),
    ):
        monkeypatch.setattr(
            torch.backends.cpu, "get_cpu_capability", lambda value=capability: value
        )
        monkeypatch.setattr(module, "processor", lambda value=vendor: value)
        answers[capability, vendor] = module.onednn_is_faster.__wrapped__()
    assert list(answers.values()) == [
        False,
        False,
        torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available(),
    ]


def test_a_pytorch_without_the_operator_keeps_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: Any) -> torch.Tensor:
        raise AttributeError("no such operator")

    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    monkeypatch.setattr(module, "processor", lambda: "AuthenticAMD")
    monkeypatch.setattr(module, "_product", missing)
    assert module.onednn_is_faster.__wrapped__() is False


@pytest.mark.usefixtures("onednn")
@pytest.mark.parametrize("arch", ["vit_tiny_patch16", "convnextv2_atto", "hiera_tiny_224"])
def test_a_whole_autoencoder_gives_the_same_loss_and_gradients(arch: str) -> None:
    model = build(mae_config(arch, (64, 64)))
    images, noise = inputs(model, 4)
    loss = model(images, noise).loss
    loss.backward()
    found = gradients(model)
    assert len(CALLS) > 20
    CALLS.clear()
    model.zero_grad()
    with torch.backends.mkldnn.flags(enabled=False):
        plain = model(images, noise).loss
        plain.backward()
    assert CALLS == []
    assert abs(loss.item() - plain.item()) < 1e-5 * plain.item()
    assert max(relative(found[name], grad) for name, grad in gradients(model).items()) < 1e-4


def test_names_and_parameters_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    layers = torch.nn.Sequential(
        torch.nn.Linear(4, 4),
        torch.nn.GELU(),
        torch.nn.Sequential(torch.nn.Linear(4, 2, bias=False)),
    )
    before = dict(layers.named_parameters())
    speed_up(layers)
    after = dict(layers.named_parameters())
    assert list(after) == list(before) and all(after[name] is before[name] for name in before)
    assert [type(part) for part in layers.modules() if isinstance(part, torch.nn.Linear)] == [
        Linear,
        Linear,
    ]
