"""Linear layers by oneDNN: the same numbers as PyTorch's, and PyTorch's own wherever oneDNN has no
place."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from mae_runners.models import kernels as module
from mae_runners.models.kernels import Linear, linear, speed_up

from tests.support.models import build, gradients, inputs, mae_config, relative

CALLS: list[tuple[int, ...]] = []


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
    arguments = [
        torch.randn(shape),
        torch.randn(width, shape[-1]),
        *([torch.randn(width)] if bias else []),
    ]
    weights = torch.randn(*shape[:-1], width)
    results = []
    for dtype, function in ((torch.float32, linear), (torch.float64, F.linear)):
        inputs_ = [value.detach().to(dtype).requires_grad_() for value in arguments]
        y = function(*inputs_)
        (y * weights.to(dtype)).sum().backward()
        results.append([y, *(value.grad for value in inputs_)])
    assert len(CALLS) == 3  # the product and two gradients
    for ours, expected in zip(*results, strict=True):
        assert ours.shape == expected.shape
        assert relative(ours.double(), expected) < 1e-6


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
