"""Weights of the model hub, and what folders of timm and transformers say of their models."""

import json
import shutil

import numpy as np
import pytest
import torch
from mae_runners.models import build_classifier, build_from_config, build_mae, load_pretrained
from mae_runners.models.pretrained import load_described
from mae_sdk import Skill
from mae_sdk.jobs.outputs import fetch
from mae_sdk.storage import hub
from mae_skill.errors import CheckpointError, NotFoundError, StorageError, UsageError

from tests.support.deploy import make_spec, of_bands, write_digits
from tests.support.hub import serve

VIT = {
    "model.arch": "vit_tiny_patch16",
    "model.embed_dim": 64,
    "model.depth": 2,
    "model.num_heads": 2,
}


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return write_digits(tmp_path_factory.mktemp("digits"), per_class=2, size=40)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A pretrained ViT of transformers with an ε and a preprocessing of its own."""
    from transformers import ViTMAEConfig, ViTMAEForPreTraining

    torch.manual_seed(0)
    shape = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = ViTMAEConfig(
        **shape,
        intermediate_size=256,
        image_size=32,
        layer_norm_eps=0.1,
        decoder_hidden_size=32,
        decoder_num_hidden_layers=1,
        decoder_num_attention_heads=2,
        decoder_intermediate_size=128,
    )
    path = tmp_path_factory.mktemp("hub") / "model"
    ViTMAEForPreTraining(config).save_pretrained(path)
    (path / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4]})
    )
    return path


@pytest.fixture
def server(folder, monkeypatch, tmp_path):
    with serve() as server:
        server.models["lab/vit"] = {path.name: path.read_bytes() for path in folder.iterdir()}
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield server


def planned(tmp_path, digits, ptm, **overrides):
    return Skill().plan(
        "train",
        train_datasets=str(digits),
        results_root=str(tmp_path / "results"),
        automl_policy="off",
        ptm=str(ptm),
        spec_overrides={
            "train.stage": "finetune",
            "train.accelerator": "cpu",
            "model.num_classes": 4,
            "dataset.augmentation.input_size": 32,
            **VIT,
            **overrides,
        },
    )


def test_a_plan_finds_a_model_of_the_hub_and_a_launch_fetches_it(server, folder, tmp_path, digits):
    plan = planned(tmp_path, digits, "hf://lab/vit")
    (weights,) = [item for item in plan.inferred if item.field == "train.pretrained_model_path"]
    assert server.commit_of("lab/vit")[:12] in weights.note
    assert not any(path.endswith(".safetensors") for _, path in server.asked)  # not yet
    assert plan.spec["dataset"]["augmentation"]["mean"] == [0.5, 0.4, 0.3]

    fetch(plan.inferred)
    model = build_classifier(make_spec(**VIT).model, 32)
    report = load_pretrained(model, weights.value)
    assert report.share == 1.0
    # What the cache holds is neither asked for again nor lost with the network.
    count = len(server.asked)
    assert planned(tmp_path, digits, "hf-hub:lab/vit").inferred[0].needs == ()
    assert not any(".safetensors" in path for _, path in server.asked[count:])


def test_the_cache_stands_in_for_a_hub_that_does_not_answer(server, monkeypatch):
    fetch([hub.locate("hf://lab/vit")])
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    found = hub.locate("hf://lab/vit")
    assert found.path.is_file()
    assert found.needs == ()
    with pytest.raises(StorageError, match="did not give lab/other"):
        hub.locate("hf://lab/other")


def test_a_model_that_the_hub_does_not_show_is_named(server, monkeypatch):
    server.models["lab/empty"] = {"notes.txt": b"nothing"}
    server.private.add("lab/vit")
    with pytest.raises(NotFoundError) as caught:
        hub.locate("hf://lab/vit")
    assert "HF_TOKEN" in str(caught.value.hint)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert hub.locate("hf://lab/vit").repo == "lab/vit"
    with pytest.raises(CheckpointError, match="no weights by a known name"):
        hub.locate("hf://lab/empty")
    with pytest.raises(NotFoundError, match="has no file other"):
        hub.locate("hf://lab/vit/other.pth")
    with pytest.raises(UsageError, match="not a model of the hub"):
        hub.locate("hf://vit")


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"do_rescale": False},
        {"rescale_factor": 1 / 127.5},
        {"do_normalize": False},
        {"do_normalize": False, "do_rescale": False},
        {"do_rescale": False, "image_mean": [127.5] * 3, "image_std": [60.0, 61.0, 62.0]},
    ],
    ids=str,
)
def test_pixels_reach_the_model_as_the_folders_own_processor_makes_them(said, tmp_path):
    from mae_skill.weights.config import normalization
    from PIL import Image
    from transformers import ViTImageProcessor

    values = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4], "do_resize": False}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({**values, **said}))
    pixels = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3)
    processor = ViTImageProcessor.from_pretrained(tmp_path)
    theirs = processor(Image.fromarray(pixels), return_tensors="np")["pixel_values"][0]
    known = normalization(tmp_path)
    ours = (pixels / 255 - np.array(known["mean"])) / np.array(known["std"])
    np.testing.assert_allclose(ours.transpose(2, 0, 1), theirs, rtol=1e-4, atol=1e-4)


def test_mean_and_deviation_of_other_channels_are_taken_for_as_many(folder, tmp_path, digits):
    weights = shutil.copytree(folder, tmp_path / "six")
    values = {"image_mean": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6], "image_std": [0.2] * 6}
    (weights / "preprocessor_config.json").write_text(json.dumps(values))

    six = planned(tmp_path, of_bands(digits, 6), weights, **{"dataset.channels": 6})
    assert six.spec["dataset"]["augmentation"]["mean"] == values["image_mean"]
    default = planned(tmp_path, digits, weights).spec["dataset"]["augmentation"]
    assert len(default["mean"]) == 3  # the stem is adapted, and the values of six say nothing


def test_mean_and_deviation_come_from_the_folder_unless_somebody_says_others(
    folder, tmp_path, digits
):
    plan = planned(tmp_path, digits, folder)
    augmentation = plan.spec["dataset"]["augmentation"]
    assert augmentation["mean"] == [0.5, 0.4, 0.3]
    assert augmentation["std"] == [0.2, 0.3, 0.4]
    assert "preprocessor_config.json" in str(
        [item.note for item in plan.inferred if item.field.endswith("mean")]
    )

    own = {"dataset.augmentation.mean": [0.1, 0.1, 0.1]}
    plan = planned(tmp_path, digits, folder, **own)
    assert plan.spec["dataset"]["augmentation"]["mean"] == [0.1, 0.1, 0.1]
    assert any("trained with [0.5, 0.4, 0.3]" in str(warning) for warning in plan.warnings)


def test_the_epsilon_of_the_norms_is_the_files_and_stays(folder, tmp_path):
    from transformers import ViTMAEModel

    spec = make_spec(**VIT, train__stage="pretrain", model__decoder_embed_dim=32)
    model = build_mae(spec.model, spec.train, 32)
    report = load_pretrained(model, folder)
    assert "ε of 0.1" in report.line
    again = build_from_config(model.config)  # as a checkpoint keeps it
    again.load_state_dict(model.state_dict())

    theirs = ViTMAEModel.from_pretrained(folder, mask_ratio=0.0).eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        noise = torch.arange(4.0).expand(2, 4)
        wanted = theirs(images, noise=noise).last_hidden_state[:, 1:]
        for ours in (model, again):
            found = ours.eval().encode(images, pool=False)
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=2e-5)


def test_a_head_whose_classes_share_a_name_is_refused_by_that_name(tmp_path):
    from transformers import ViTConfig, ViTForImageClassification

    names = ["crane", "fish", "crane", "bird"]
    config = ViTConfig(
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=256,
        image_size=32,
        id2label=dict(enumerate(names)),
        label2id={},
    )
    ViTForImageClassification(config).save_pretrained(tmp_path / "model")
    values = {"model.num_classes": 4, "model.global_pool": False, "train.stage": "finetune"}
    spec = make_spec(**VIT, **values, **{"dataset.augmentation.input_size": 32})
    with pytest.raises(CheckpointError, match=r"one name: crane \(rows 0 and 2\)"):
        load_described(tmp_path / "model", None, spec, "evaluate.checkpoint")
