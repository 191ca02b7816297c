"""Models trace to the oldest opset the spec accepts, with attention unfused, and any batch size."""

from __future__ import annotations

import io
import warnings
from typing import Any

import pytest
import torch

from tests.support.models import SMALL, build, classifier_config, mae_config, relative


class Features(torch.nn.Module):
    """What export writes for a pretraining checkpoint."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.model.encode(images)


@pytest.mark.parametrize("arch", SMALL)
@pytest.mark.parametrize("pretrained", [True, False])
def test_opset_12_reproduces_the_model_at_another_batch_size(arch: str, pretrained: bool) -> None:
    ort = pytest.importorskip("onnxruntime")
    model = build((mae_config if pretrained else classifier_config)(arch, (64, 96)))
    model.set_fused_attention(False)
    module = (Features(model) if pretrained else model).eval()
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            (torch.randn(2, 3, 64, 96),),
            file,
            opset_version=12,
            dynamo=False,
            input_names=["images"],
            dynamic_axes={"images": {0: "batch"}},
        )
    images = torch.randn(5, 3, 64, 96)
    out = ort.InferenceSession(file.getvalue()).run(None, {"images": images.numpy()})[0]
    with torch.no_grad():
        assert relative(torch.from_numpy(out), module(images)) < 1e-5
