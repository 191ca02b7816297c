"""Refining: the last blocks of a trained encoder learn by contrast (NNA, arXiv 2402.10093)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from mae_runners.__main__ import main
from mae_runners.models import build_mae, checkpoint, load_pretrained
from mae_runners.models.mae import MaskedAutoencoder
from mae_runners.models.pretrained import load_described
from mae_runners.models.refine import RefineOutput, Refiner
from mae_skill.errors import MaeError
from mae_skill.origin import Origin, OriginKind
from mae_skill.rules import check_rules
from mae_skill.rules.base import Facts, Notice
from mae_skill.spec import ExperimentSpec
from mae_skill.weights import header
from mae_skill.weights.resumed import other_run

from tests.support.ranks import train_on_ranks
from tests.support.training import (
    digits_folder,
    read,
    spec,
    status_lines,
    train,
    values,
    write_spec,
)
from tests.training.test_resume import assert_same_run, changes_of, run_killed, weights

SMALL = {"model__patch_size": 8, "model__decoder_embed_dim": 24, "model__depth": 4}
FIELD = "train.refine.blocks"
CONFIG = {"blocks": 1, "temperature": 0.3, "queue_size": 8, "neighbors": 1}
NO_SHAPE = dict.fromkeys(("model__embed_dim", "model__num_heads", "model__patch_size"))
FAMILIES = {
    "vit_tiny_patch16": SMALL,
    "convnextv2_atto": {**NO_SHAPE, "model__depth": None, "model__decoder_num_heads": None},
    "hiera_tiny_224": {**NO_SHAPE, "model__depth": None},
}


def made(**changes: Any) -> ExperimentSpec:
    return ExperimentSpec.model_validate(spec(Path("data"), Path("job"), **{**SMALL, **changes}))


def refined_model(arch: str = "vit_tiny_patch16", **config: Any) -> MaskedAutoencoder:
    one = made(**{**FAMILIES[arch], "model__arch": arch})
    torch.manual_seed(0)
    return build_mae(one.model, one.train, 64, refine={**CONFIG, **config})


# ---- the loss ------------------------------------------------------------------------------------


def unit(x: torch.Tensor) -> torch.Tensor:
    return x / (x * x).sum().sqrt()


def written_out(
    refiner: Refiner, features: torch.Tensor, queue: list[torch.Tensor], temperature: float
) -> torch.Tensor:
    """The loss of features ``[2·B, D]``, picture by picture."""

    def head(layers: Any, x: torch.Tensor) -> torch.Tensor:
        linear = [layer for layer in layers if isinstance(layer, torch.nn.Linear)]
        for number, layer in enumerate(linear):
            x = x @ layer.weight.T + layer.bias
            if number < len(linear) - 1:
                norm = layers[3 * number + 1]
                spread = (x.var(0, unbiased=False) + 1e-5).sqrt()
                x = ((x - x.mean(0)) / spread * norm.weight + norm.bias).clamp(min=0)
        return x

    projected = head(refiner.projector, features)
    predicted = head(refiner.predictor, projected)
    z, p = [unit(row).detach() for row in projected], [unit(row) for row in predicted]
    count, losses = len(z) // 2, []
    for keys, queries in ((z[:count], p[count:]), (z[count:], p[:count])):
        for i in range(count):
            near = max(queue, key=lambda row: float(row @ keys[i])) if queue else keys[i]
            positive = ((near @ queries[i]) / temperature).exp()
            others = sum(
                ((keys[j] @ queries[i]) / temperature).exp() for j in range(count) if j != i
            )
            losses.append(-(positive / (positive + others)).log())
    return torch.stack(losses).mean()


@pytest.mark.parametrize("held", [0, 3])
def test_loss_and_gradients_are_those_of_the_paper_written_out(held: int) -> None:
    torch.manual_seed(1)
    refiner = Refiner(12, CONFIG).double()
    queue = [unit(torch.randn(256, dtype=torch.float64)) for _ in range(held)]
    for place, row in enumerate(queue):
        refiner.queue[place] = row
    features = torch.randn(10, 12, dtype=torch.float64, requires_grad=True)

    expected = written_out(refiner, features, queue, 0.3)
    wanted = torch.autograd.grad(expected, [features, *refiner.parameters()])
    loss = refiner(features)
    found = torch.autograd.grad(loss, [features, *refiner.parameters()])
    assert loss.item() == pytest.approx(expected.item(), rel=1e-10)
    for one, other in zip(found, wanted, strict=True):
        assert torch.allclose(one, other, rtol=1e-7, atol=1e-12)
    assert float(wanted[0].abs().max()) > 1e-3


def test_the_queue_takes_first_views_newest_first_and_forgets_the_oldest() -> None:
    refiner = Refiner(12, {**CONFIG, "queue_size": 5})
    seen = []
    for step in range(3):
        torch.manual_seed(step)
        features = torch.randn(4, 12)
        with torch.no_grad():
            rows = torch.nn.functional.normalize(refiner.projector(features), dim=-1)[:2]
        seen = [*rows, *seen]
        refiner(features)
    assert torch.allclose(refiner.queue, torch.stack(seen[:5]), atol=1e-6)


def test_a_neighbor_is_one_of_the_nearest_and_each_of_them_is_drawn() -> None:
    torch.manual_seed(0)
    refiner = Refiner(12, {**CONFIG, "neighbors": 3})
    rows = torch.nn.functional.normalize(torch.randn(6, 256), dim=-1)
    refiner.queue[:6] = rows
    z = torch.nn.functional.normalize(torch.randn(1, 256), dim=-1)
    nearest = set((rows @ z[0]).topk(3).indices.tolist())
    drawn = refiner._neighbors(z.expand(60, -1))
    assert {int((rows @ one).argmax()) for one in drawn} == nearest


def test_a_picture_alone_is_told_from_none_and_gives_no_gradient() -> None:
    refiner = Refiner(12, CONFIG)
    features = torch.randn(2, 12, requires_grad=True)
    loss = refiner(features)
    loss.backward()
    assert loss.item() == 0.0 and float(features.grad.abs().max()) == 0.0


def test_chance_has_the_logarithm_of_the_batch() -> None:
    """In half precision too: the loss itself is taken in fp32."""
    torch.manual_seed(0)
    model = refined_model(temperature=10.0).train()
    images, noise = torch.randn(8, 3, 64, 64), torch.rand(8, model.num_units)
    with torch.autocast("cpu", torch.bfloat16):
        out = model(images, noise, torch.randn(8, 3, 64, 64))
    assert isinstance(out, RefineOutput) and out.loss.dtype == torch.float32
    assert out.loss.item() == pytest.approx(math.log(8), abs=0.1)


# ---- what learns ---------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", FAMILIES)
def test_gradients_reach_the_last_blocks_and_the_heads_alone(arch: str) -> None:
    model = refined_model(arch, blocks=2).train()
    blocks = model.encoder.blocks_in_order()
    late = {id(p) for block in blocks[-2:] for p in block.parameters()}
    early = {id(p) for block in blocks[:-2] for p in block.parameters()}
    views = torch.randn(3, 3, 64, 64)
    model(torch.randn(3, 3, 64, 64), torch.rand(3, model.num_units), views).loss.backward()
    for name, parameter in model.named_parameters():
        trained = name.startswith("refiner.") or id(parameter) in late
        if name in ("encoder.norm.weight", "encoder.norm.bias"):
            trained = True
        assert parameter.requires_grad == trained, name
        assert (parameter.grad is not None) == trained, name
        assert not (trained and id(parameter) in early)


@pytest.mark.parametrize("arch", FAMILIES)
def test_activations_that_are_made_again_give_the_same_gradients(arch: str) -> None:
    found = []
    for again in (False, True):
        model = refined_model(arch, blocks=2).train()
        model.set_grad_checkpointing(again)
        torch.manual_seed(3)
        images, views = torch.randn(2, 3, 3, 64, 64)
        model(images, torch.rand(3, model.num_units), views).loss.backward()
        found.append({name: p.grad for name, p in model.named_parameters() if p.requires_grad})
    for name, gradient in found[0].items():
        assert found[1][name] is not None, name
        assert torch.allclose(gradient, found[1][name], atol=1e-6), name


def test_the_rest_starts_as_it_does_without() -> None:
    one = made()
    torch.manual_seed(0)
    plain = build_mae(one.model, one.train, 64).state_dict()
    found = refined_model().state_dict()
    assert all(key.startswith("refiner.") for key in set(found) - set(plain))
    assert all(torch.equal(found[key], value) for key, value in plain.items())


# ---- runs ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return digits_folder(tmp_path_factory.mktemp("digits"), per_class=5)


@pytest.fixture(scope="module")
def start(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pretrained ViT."""
    job = tmp_path_factory.mktemp("start") / "job"
    assert train(spec(data, job, **SMALL, train__num_epochs=1)) == 0
    return job / "train/model_epoch_000.pth"


def refining(file: Path, **changes: Any) -> dict[str, Any]:
    fields = {"train__pretrained_model_path": str(file), "train__refine__blocks": 2}
    fields |= {"train__refine__queue_size": 16, "train__refine__neighbors": 2}
    return {**SMALL, **fields, **changes}


def test_two_views_are_of_one_picture_and_the_first_is_that_of_a_run_without(data: Path) -> None:
    from mae_runners.data import augmentation_of, build_dataset

    options: Any = {"train": True, "stage": "pretrain", "seed": 3}
    options["augmentation"] = augmentation_of(made().dataset)
    plain = build_dataset(str(data), **options)
    both = build_dataset(str(data), two_views=True, **options)
    one, other = both[1, 4], both[1, 4]
    assert torch.equal(one["image"], plain[1, 4]["image"])
    assert torch.equal(one["view"], other["view"])
    assert not torch.equal(one["view"], one["image"])
    batch = both.collate([both[0, 0], both[0, 1]])
    assert batch["view"].shape == batch["image"].shape
    assert both.item_bytes > 1.9 * plain.item_bytes - 64


def test_frozen_weights_stay_bit_for_bit_and_the_others_move(
    data: Path, start: Path, tmp_path: Path
) -> None:
    changes = {"train__optim__lr": 1e-3, "train__precision": "bf16"}
    changes |= {"train__accum_grad_batches": 2, "train__optim__warmup_epochs": 0}
    assert train(spec(data, tmp_path / "job", **refining(start, **changes))) == 0
    before = checkpoint.read(start)["state_dict"]
    after = checkpoint.read(tmp_path / "job/train/model_epoch_001.pth")["state_dict"]
    moved = {key for key, value in before.items() if not torch.equal(value, after[key])}
    late = ("model.encoder.blocks.2.", "model.encoder.blocks.3.", "model.encoder.norm.")
    assert moved == {key for key in before if key.startswith(late)}
    assert {key.split(".")[1] for key in set(after) - set(before)} == {"refiner"}
    assert all(math.isfinite(value) for value in values(tmp_path / "job"))

    told = [line.get("message", "") for line in status_lines(tmp_path / "job")]
    assert any("no loss of reconstruction" in line for line in told)
    groups = read(tmp_path / "job", "train/derived.json")["parameter_groups"]
    scales = {round(group["scale"], 6) for group in groups}
    assert scales == {
        1.0,
        0.65,
        round(0.65**2, 6),
    }  # heads and norm; the last block; the one before


def test_a_run_that_refines_continues_bit_for_bit(data: Path, start: Path, tmp_path: Path) -> None:
    changes = {**changes_of("pretrain", data), "train__num_epochs": 2}
    changes = refining(start, **changes)
    assert train(spec(data, tmp_path / "whole", **changes)) == 0
    parts = spec(data, tmp_path / "parts", **changes)
    run_killed(parts, 6)
    assert train(parts) == 0
    assert_same_run(tmp_path / "whole", tmp_path / "parts")
    queue = weights(tmp_path / "parts")["model.refiner.queue"]
    assert queue.shape == (16, 256) and bool(queue.any(dim=-1).all())
    assert not list((tmp_path / "whole").rglob("*reconstruction*"))
    assert values(tmp_path / "whole", "val_loss") == []  # of another kind than the training's
    assert len(values(tmp_path / "whole", "rankme")) == 2


def test_a_refined_encoder_is_evaluated_tuned_and_exported_as_any(
    data: Path, start: Path, tmp_path: Path
) -> None:
    assert train(spec(data, tmp_path / "job", **refining(start))) == 0
    file = tmp_path / "job/train/model_epoch_001.pth"

    judged = spec(data, tmp_path / "judged", **SMALL, dataset__val_data_sources=str(data))
    judged["evaluate"] = {"checkpoint": str(file)}
    assert main(["evaluate", "-e", str(write_spec(judged, tmp_path / "judged.json"))]) == 0
    metrics = read(tmp_path / "judged", "evaluate/metrics.json")
    assert metrics["knn_acc"] > 0 and "linear_acc" in metrics
    assert "reconstruction_loss" not in metrics  # its decoder is of the encoder before
    assert any("the encoder was refined" in note for note in metrics["notes"])

    tuned = spec(data, tmp_path / "tuned", "finetune", **{**SMALL, "train__num_epochs": 1})
    tuned["train"]["pretrained_model_path"] = str(file)
    assert train(tuned) == 0
    report = read(tmp_path / "tuned", "train/derived.json")["pretrained"]
    assert report["share"] == 1.0
    assert all(
        "refiner" in name or "decoder" in name or "mask" in name for name in report["unexpected"]
    )

    exported = spec(data, tmp_path / "out", **SMALL)
    exported["export"] = {"checkpoint": str(file)}
    assert main(["export", "-e", str(write_spec(exported, tmp_path / "out.json"))]) == 0

    # A folder that others load comes back without the heads, and is no model that reconstructs.
    folder = spec(data, tmp_path / "others", **SMALL)
    folder["export"] = {"checkpoint": str(file), "format": "transformers"}
    assert main(["export", "-e", str(write_spec(folder, tmp_path / "others.json"))]) == 0
    (described,) = (tmp_path / "others").rglob("config.json")
    back, _, decodes = load_described(described.parent, None, None, None)
    assert not decodes
    kept = checkpoint.read(file)["state_dict"]
    assert all(
        torch.equal(value, kept[f"model.{name}"])
        for name, value in back.state_dict().items()
        if name.startswith("encoder.")
    )

    # More masked pretraining from it takes the decoder that rode along, and no heads.
    one = made()
    model = build_mae(one.model, one.train, 64)
    found = load_pretrained(model, file)
    assert found.missing == []


def test_without_trained_weights_the_run_is_refused_as_the_plan_refuses_it(
    data: Path, start: Path, tmp_path: Path
) -> None:
    changes = refining(start)
    del changes["train__pretrained_model_path"]
    assert train(spec(data, tmp_path / "job", **changes)) != 0
    error = read(tmp_path / "job", "error.json")
    assert error["field"] == FIELD and "no trained encoder" in error["message"]
    assert [one.field for one in planned(train__pretrained_model_path=None, **changes)[0]] == [
        FIELD
    ]

    deep = refining(start, train__refine__blocks=5)
    assert train(spec(data, tmp_path / "deep", **deep)) != 0
    error = read(tmp_path / "deep", "error.json")
    assert error["field"] == FIELD and "1 to 4" in error["expected"]
    assert [one.field for one in planned(**deep)[0]] == [FIELD]


def test_no_run_goes_on_between_refining_and_masking(
    data: Path, start: Path, tmp_path: Path
) -> None:
    changes = refining(start, train__resume_training_checkpoint_path=str(start))
    assert train(spec(data, tmp_path / "job", **changes)) != 0
    error = read(tmp_path / "job", "error.json")
    assert error["field"] == FIELD and "did not refine" in error["message"]
    # The plan asks the same of the file's description, and of one that refined as well.
    for blocks, of in ((2, {}), (0, {"refine": {"blocks": 2}})):
        seen = header.look(start)
        assert seen is not None
        seen["mae"]["model"].update(of)
        now = made(train__refine__blocks=blocks).model_dump(mode="json")
        wrong = other_run(seen, now, start.name)
        assert wrong is not None and wrong.field == FIELD and wrong.hint


# ---- the plan ------------------------------------------------------------------------------------


def planned(**changes: Any) -> tuple[list[MaeError], list[Notice]]:
    changes = {"train__pretrained_model_path": "weights.pth", **changes}
    one = ExperimentSpec.model_validate(spec(Path("data"), Path("job"), **changes))
    return check_rules("train", one.model_dump(mode="json"), facts=Facts())


@pytest.mark.parametrize(
    "changes, field",
    [
        ({"train__teacher__checkpoint": "teacher.pth"}, "train.teacher.checkpoint"),
        ({"train__refine__neighbors": 9, "train__refine__queue_size": 8}, "train.refine.neighbors"),
        ({"dataset__batch_size": 1}, "dataset.batch_size"),
        (
            {"train__optim__monitor_name": "val_loss", "dataset__val_data_sources": "val"},
            "train.optim.monitor_name",
        ),
    ],
)
def test_what_does_not_go_with_refining_is_an_error_of_its_field(
    changes: dict[str, Any], field: str
) -> None:
    assert [error.field for error in planned(train__refine__blocks=1, **changes)[0]] == [field]
    unrefined, _ = planned(**changes)
    assert field not in [error.field for error in unrefined]


def test_a_mask_ratio_and_a_decoder_are_no_matter_of_refining() -> None:
    key = "train.mask_ratio"
    changes = {"train__mask_ratio": 0.3, "model__decoder_depth": 2}
    about = [
        [one.message for one in planned(train__refine__blocks=blocks, **changes)[1]]
        for blocks in (0, 1)
    ]
    assert any("the paper of" in one for one in about[0])
    assert not any("the paper of" in one or "MAE paper" in one for one in about[1])
    origin = {key: Origin(OriginKind.OVERRIDE)}
    one = made(train__refine__blocks=1, train__pretrained_model_path="w.pth")
    _, notices = check_rules("train", one.model_dump(mode="json"), origin, facts=Facts())
    assert any(one.field == key and "no effect" in one.message for one in notices)


def test_the_estimate_counts_the_heads_two_views_and_the_blocks_that_learn() -> None:
    from mae_skill.estimate import estimate

    facts = Facts(device="cpu", cores=1)
    plain, one, four = (
        estimate("train", made(train__refine__blocks=blocks).model_dump(mode="json"), facts)
        for blocks in (0, 1, 4)
    )
    heads = refined_model().refiner
    assert heads is not None
    assert one["parameters"]["heads"] == sum(p.numel() for p in heads.parameters())
    assert one["forward_gflops"] == four["forward_gflops"] > 2 * plain["forward_gflops"]
    held = [found["memory_mb"]["activations"] for found in (one, four)]
    assert held[1] == pytest.approx(4 * held[0], abs=0.5)
    assert one["seconds_per_step"] < four["seconds_per_step"]


def test_two_views_that_are_the_same_are_warned_of() -> None:
    still = {"dataset__augmentation__min_scale": 1.0, "dataset__augmentation__hflip": 0.0}
    words = "both views of a picture are the same"
    for more, said in (({}, True), ({"dataset__augmentation__shift": 0.1}, False)):
        _, notices = planned(train__refine__blocks=1, **still, **more)
        assert any(words in one.message for one in notices) == said


# ---- several ranks -------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_ranks_share_their_negatives_and_one_queue(
    data: Path, start: Path, tmp_path: Path, strategy: str
) -> None:
    """15 pictures do not divide by two ranks: one brings a filler less."""
    changes = refining(start, train__num_epochs=1, train__refine__queue_size=64)
    two = spec(data, tmp_path / "two", **changes, train__num_gpus=2, dataset__batch_size=2)
    two["train"]["distributed_strategy"] = strategy
    codes, told = train_on_ranks((two, 2))
    assert codes == [[0, 0]], told
    saved = checkpoint.read(tmp_path / "two/train/model_epoch_000.pth")["state_dict"]
    held = saved["model.refiner.queue"].any(dim=-1)
    # The last of a rank is a filler alone, which is no picture; it is looked at all the same.
    assert int(held.sum()) in (15, 16)
    assert bool(held[: int(held.sum())].all())
