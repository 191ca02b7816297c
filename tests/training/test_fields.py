"""No dead parameter: every field of a train spec changes something that can be observed, or says
when it acts and is warned about otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from mae_runners.__main__ import ranks_to_start
from mae_runners.actions import train as train_action
from mae_runners.context import device_ids
from mae_runners.training import fabric, loop
from mae_skill.bundle import Bundle
from mae_skill.conditions import acts
from mae_skill.dotted import field_nodes, set_dotted
from mae_skill.errors import UsageError
from mae_skill.merge import merge
from mae_skill.origin import OriginKind
from mae_skill.resolve import layers_of, resolve
from mae_skill.rules import check_rules
from mae_skill.spec import ExperimentSpec
from PIL import Image

from tests.support.images import write_imagefolder
from tests.support.training import digits_folder, read, spec, train

SECTIONS = ("model", "dataset", "train")
SEGMENTATION = {"model.task": "segmentation"}
FIELDS = {
    key: node
    for key, node in field_nodes(Bundle.load().schema("train")).items()
    if key.split(".")[0] in SECTIONS
    and not SEGMENTATION.items()
    <= node.get("applies_when", {}).items()  # theirs: test_segmentation.py
}
AUG, OPT = "dataset.augmentation.", "train.optim."
DATA, HELD, WEIGHTS, STATE, PHOTOS, BROKEN, TURNED, TABLE = (
    "<data>",
    "<held>",
    "<weights>",
    "<state>",
    "<photos>",
    "<broken>",
    "<turned>",
    "<table>",
)
COSINE = {OPT + "lr_scheduler": "cosine"}
TEACHER = {"train.teacher.checkpoint": WEIGHTS}
FROM_WEIGHTS = {"train.pretrained_model_path": WEIGHTS}
REFINES = {**FROM_WEIGHTS, "train.refine.blocks": 1}
PROBE = {"dataset.probe_train_data_sources": DATA, "train.probe.interval": 1}
PATIENT = {"train.early_stopping.patience": 1, "train.num_epochs": 4}

#: dotted key → another value, and what else must be set for it to matter
CHANGES: dict[str, tuple[Any, dict[str, Any]]] = {
    "model.arch": (
        "convnextv2_atto",
        {
            "model.embed_dim": None,
            "model.depth": None,
            "model.num_heads": None,
            "model.decoder_num_heads": None,
        },
    ),
    "model.num_classes": (4, {}),
    "model.drop_path_rate": (0.5, {}),
    "model.global_pool": (False, {}),
    "model.decoder_depth": (2, {}),
    "model.decoder_embed_dim": (64, {}),
    "model.decoder_num_heads": (4, {}),
    "model.decoder_mlp_ratio": (2.0, {}),
    "model.position_temperature": (20.0, {}),
    "model.decoder_type": ("cross", {}),
    "model.decoder_prediction_share": (0.5, {"model.decoder_type": "cross"}),
    "model.patch_size": (8, {}),
    "model.init": ("xavier", {"train.stage": "finetune", "model.arch": "vit_tiny_patch16"}),
    "model.embed_dim": (64, {}),
    "model.depth": (3, {}),
    "model.num_heads": (4, {}),
    "model.mlp_ratio": (2.0, {}),
    "dataset.train_data_sources": (HELD, {}),
    "dataset.val_data_sources": (HELD, {}),
    "dataset.probe_train_data_sources": (DATA, {"train.probe.interval": 1}),
    "dataset.probe_val_data_sources": (HELD, {**PROBE, "train.probe.k": 1, "train.num_epochs": 4}),
    "dataset.val_fraction": (0.25, {}),
    "dataset.train_fraction": (0.5, {}),
    "dataset.classes": (["2", "0", "1"], {"train.stage": "finetune"}),
    "dataset.batch_size": (2, {}),
    "dataset.labels.train": (TABLE, {}),
    "dataset.labels.val": (
        TABLE,
        {"train.stage": "finetune", "dataset.val_data_sources": DATA},
    ),
    "dataset.channels": (1, {}),
    "dataset.value_range": ([0.0, 128.0], {}),
    "dataset.exif_orientation": (False, {"dataset.train_data_sources": TURNED}),
    "dataset.max_corrupt_fraction": (0.5, {"dataset.train_data_sources": BROKEN}),
    AUG + "input_size": (32, {"train.stage": "finetune"}),
    AUG + "mean": ([0.1, 0.1, 0.1], {"train.norm_pix_loss": False}),
    AUG + "std": ([0.9, 0.9, 0.9], {"train.norm_pix_loss": False}),
    AUG + "min_scale": (0.9, {}),
    AUG + "max_scale": (0.2, {}),
    AUG + "min_ratio": (1.2, {}),
    AUG + "max_ratio": (4.0, {}),
    AUG + "smoothing": (0.3, {}),
    AUG + "color_jitter": (0.5, {}),
    AUG + "auto_aug": (None, {}),
    AUG + "mixup": (0.1, {}),
    AUG + "cutmix": (0.0, {}),
    AUG + "mixup_prob": (0.0, {}),
    AUG + "mixup_switch_prob": (1.0, {}),
    AUG + "mixup_mode": ("elem", {}),
    AUG + "interpolation": ("bilinear", {}),
    AUG + "center_crop": (0.5, {"dataset.val_data_sources": HELD}),
    AUG + "eval_interpolation": ("bilinear", {"dataset.val_data_sources": HELD}),
    AUG + "hflip": (1.0, {}),
    AUG + "vflip": (1.0, {}),
    AUG + "rotation": (30.0, {}),
    AUG + "shear": (20.0, {}),
    AUG + "zoom": (0.5, {}),
    AUG + "shift": (0.2, {}),
    AUG + "re_prob": (1.0, {}),
    AUG + "reduced_decode": (
        True,
        {"dataset.train_data_sources": PHOTOS, AUG + "input_size": 32, AUG + "min_scale": 0.9},
    ),
    AUG + "max_pixels": (100, {}),  # every image has more
    "train.stage": ("finetune", {"model.num_classes": 3}),
    "train.num_epochs": (3, {}),
    "train.accum_grad_batches": (2, {}),
    "train.precision": ("bf16", {}),
    "train.norm_pix_loss": (False, {}),
    "train.mask_ratio": (0.6, {}),
    "train.seed": (5, {}),
    "train.checkpoint_interval": (2, {}),
    "train.checkpoint_interval_unit": ("step", {}),
    "train.keep_checkpoints": (1, {}),
    "train.validation_interval": (2, {"dataset.val_data_sources": HELD}),
    "train.resume_training_checkpoint_path": (STATE, {}),
    "train.pretrained_model_path": (WEIGHTS, {}),
    "train.teacher.checkpoint": (WEIGHTS, {}),
    "train.teacher.weight": (0.5, TEACHER),
    "train.teacher.layer": (1, TEACHER),
    "train.teacher.sees": ("all", TEACHER),
    "train.refine.blocks": (2, FROM_WEIGHTS),
    "train.refine.temperature": (0.5, REFINES),
    "train.refine.queue_size": (4, {**REFINES, "train.refine.neighbors": 2}),
    "train.refine.neighbors": (1, REFINES),
    "train.refine.layer_decay": (0.9, REFINES),
    "train.freeze": (["blocks.0"], {}),
    "train.loss": ("focal", {}),
    "train.focal_gamma": (5.0, {"train.loss": "focal"}),
    "train.class_weights": ({"0": 3.0}, {}),
    "dataset.balanced_sampling": (True, {}),
    "train.clip_grad_norm": (0.01, {}),
    "train.ema_decay": (0.5, {"dataset.val_data_sources": HELD}),
    "train.early_stopping.patience": (
        1,
        {"train.num_epochs": 4, "train.early_stopping.min_delta": 9.0},
    ),
    "train.early_stopping.min_delta": (9.0, PATIENT),
    "train.probe.interval": (1, {"dataset.probe_train_data_sources": DATA, "train.num_epochs": 3}),
    "train.probe.k": (1, {**PROBE, "dataset.probe_val_data_sources": HELD, "train.num_epochs": 4}),
    "train.results_dir": ("<elsewhere>", {}),
    OPT + "type": ("Muon", {}),
    OPT + "monitor_name": ("val_loss", {"dataset.val_data_sources": HELD}),
    OPT + "lr": (1e-3, {}),
    OPT + "lr_scaling": ("linear", {}),
    OPT + "min_lr": (1e-4, COSINE),
    OPT + "backbone_multiplier": (1.0, FROM_WEIGHTS),
    OPT + "layer_decay": (0.5, FROM_WEIGHTS),
    OPT + "momentum": (0.5, {}),
    OPT + "beta2": (0.5, {}),
    OPT + "weight_decay": (0.9, {OPT + "lr": 1e-2}),
    OPT + "lr_scheduler": ("cosine", {}),
    OPT + "milestones": ([1], {}),
    OPT + "gamma": (0.5, {OPT + "milestones": [1]}),
    OPT + "warmup_epochs": (2, {}),
}
#: fields whose effect is no number of a run, and the test that shows it
ELSEWHERE = {
    "model.task": "test_segmentation_is_a_task_of_fine_tuning",
    "dataset.num_workers_per_gpu": "test_workers_load_the_batches",
    "dataset.test_data_sources": "test_test_data_sources_are_for_inference",
    "model.multi_label": "test_fields_of_several_labels_are_for_tables",
    "dataset.labels.columns": "test_fields_of_several_labels_are_for_tables",
    "dataset.labels.test": "test_test_data_sources_are_for_inference",
    "train.accelerator": "test_devices_decide_how_the_run_is_started",
    "train.num_gpus": "test_devices_decide_how_the_run_is_started",
    "train.gpu_ids": "test_devices_decide_how_the_run_is_started",
    "train.num_nodes": "test_devices_decide_how_the_run_is_started",
    "train.distributed_strategy": "test_the_strategy_of_several_ranks_is_the_one_asked_for",
    "train.cudnn.benchmark": "test_switches_reach_torch",
    "train.cudnn.deterministic": "test_switches_reach_torch",
    "train.compile": "test_switches_reach_torch",
    "train.gradient_checkpointing": "test_switches_reach_torch",
}

MEMORY: dict[str, dict[str, Any]] = {}


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("fields")
    data, held = digits_folder(root / "data"), digits_folder(root / "held", start=4)
    photos = write_imagefolder(
        root / "photos", classes=3, per_class=2, size=600, kind="photos", suffix=".jpg"
    )
    broken = digits_folder(root / "broken")
    sorted(broken.rglob("*.png"))[0].write_bytes(b"no image")
    turned = digits_folder(root / "turned")
    for path in turned.rglob("*.png"):
        with Image.open(path) as picture:
            exif = picture.getexif()
            exif[0x0112] = 6
            picture.save(path, exif=exif)
    made = {DATA: data, HELD: held, PHOTOS: photos, BROKEN: broken, "<root>": root}
    made[TURNED] = turned
    made[TABLE] = root / "table.csv"
    classes = sorted(path.name for path in data.iterdir())
    following = dict(zip(classes, [*classes[1:], classes[0]], strict=True))
    rows = [
        f"{file.relative_to(data)},{following[file.parent.name]}" for file in data.rglob("*.png")
    ]
    made[TABLE].write_text("\n".join(["path,label", *sorted(rows)]))
    for stage in ("pretrain", "finetune"):
        assert (
            train(spec(data, root / f"start-{stage}", stage, train__num_epochs=1, train__seed=99))
            == 0
        )
        made[f"{stage}-weights"] = root / f"start-{stage}/train/model_epoch_000.pth"
    return {key: str(path) for key, path in made.items()}


def stage_of(key: str, extra: dict[str, Any]) -> str:
    wanted = (
        extra.get("train.stage")
        or (FIELDS[key].get("applies_when") or {}).get("train.stage")
        or "pretrain"
    )
    return str(wanted)


def observe(places: dict[str, str], flat: dict[str, Any], stage: str) -> dict[str, Any]:
    """What a run leaves, without anything that only repeats the spec."""
    name = f"{places['<root>']} {stage} {sorted(flat.items(), key=str)}"
    if name in MEMORY:
        return MEMORY[name]
    job = Path(places["<root>"]) / f"job{len(MEMORY)}"
    elsewhere = str(job / "elsewhere")
    names = {
        **places,
        WEIGHTS: places["pretrain-weights"],
        STATE: places[f"{stage}-weights"],
        "<elsewhere>": elsewhere,
    }
    made = spec(Path(places[DATA]), job, stage)
    for key, value in flat.items():
        set_dotted(made, key, names[value] if isinstance(value, str) and value in names else value)
    code = train(made)
    files = {
        str(path.relative_to(job))
        for path in job.rglob("*")
        if path.is_file() and "tfevents" not in path.name
    }
    seen: dict[str, Any] = {"code": code, "files": files}
    if code == 0:
        folder = Path(elsewhere if "train.results_dir" in flat else job / "train")
        seen |= {
            "curve": (folder / "metrics.csv").read_text(),
            "derived": (folder / "derived.json").read_text(),
        }
        seen["index"] = (folder / "checkpoints.json").read_text().split('"checkpoints"')[0]
    else:
        seen["error"] = read(job, "error.json")["field"]
    MEMORY[name] = seen
    return seen


def test_every_field_is_accounted_for() -> None:
    assert FIELDS.keys() == CHANGES.keys() | ELSEWHERE.keys()
    assert not CHANGES.keys() & ELSEWHERE.keys()
    assert all(name in globals() for name in ELSEWHERE.values())


@pytest.mark.parametrize("key", CHANGES)
def test_changing_the_field_changes_the_run(places: dict[str, str], key: str) -> None:
    value, extra = CHANGES[key]
    stage = stage_of(key, extra)
    extra = {name: item for name, item in extra.items() if name != "train.stage"}
    before, after = observe(places, extra, stage), observe(places, {**extra, key: value}, stage)
    assert before != after
    if key not in ("model.num_classes", "dataset.max_corrupt_fraction", AUG + "max_pixels"):
        assert before["code"] == after["code"] == 0
    if (
        key == OPT + "weight_decay"
    ):  # the groups are told in derived.json: the curve itself must move too
        assert before["curve"] != after["curve"]


def violations(conditions: dict[str, Any]) -> list[tuple[str, Any]]:
    """For every condition a value under which it does not hold."""
    others: dict[str, list[Any]] = {
        "train.stage": ["pretrain", "finetune"],
        "model.arch": ["convnextv2_atto", "vit_tiny_patch16", "hiera_tiny_224"],
        "model.task": ["classification", "segmentation"],
        "model.decoder_type": ["self", "cross"],
        OPT + "lr_scheduler": ["cosine", "MultiStep"],
        "train.loss": ["cross_entropy", "dice"],
        "model.multi_label": [False],
    }
    found = []
    for key in conditions:
        candidates = others.get(key, [None, "somewhere", 0, 0.0, 0.8])
        found.append(
            (
                key,
                next(
                    value
                    for value in candidates
                    if acts({key: conditions[key]}, _nested(key, value))
                ),
            )
        )
    return found


def _nested(key: str, value: Any) -> dict[str, Any]:
    made: dict[str, Any] = {}
    set_dotted(made, key, value)
    return made


CONDITIONAL = [key for key, node in FIELDS.items() if node.get("applies_when")]


@pytest.mark.parametrize("key", CONDITIONAL)
def test_a_field_set_in_vain_is_warned_about(key: str) -> None:
    for name, value in violations(FIELDS[key]["applies_when"]):
        given = _nested("dataset.train_data_sources", "images")
        set_dotted(given, key, CHANGES[key][0] if key in CHANGES else TABLE)
        set_dotted(given, name, value)
        merged = merge([(OriginKind.SPEC_FILE, given)], Bundle.load().schema("train"))
        _, warnings = check_rules("train", merged.spec, merged.provenance)
        assert any(w.field == key and "no effect" in w.message for w in warnings), (
            key,
            name,
            value,
        )


def test_the_table_changes_every_field_away_from_its_default() -> None:
    for key, (value, _) in CHANGES.items():
        assert value != FIELDS[key].get("default"), key


class Stop(BaseException):
    pass


def loop_of(
    places: dict[str, str], name: str, monkeypatch: pytest.MonkeyPatch, **changes: Any
) -> Any:
    """The loop of a run that is stopped before its first step."""
    caught: list[Any] = []

    def run(self: Any) -> None:
        self.preemption.release()
        self.trackers.close()
        caught.append(self)
        raise Stop

    monkeypatch.setattr(loop.TrainLoop, "run", run)
    with pytest.raises(Stop):
        train(spec(Path(places[DATA]), Path(places["<root>"]) / name, **changes))
    return caught[0]


def test_workers_load_the_batches(places: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    made = loop_of(places, "workers", monkeypatch, dataset__num_workers_per_gpu=1)
    assert made.task.train_loader(0, 0).num_workers == 1
    made = loop_of(places, "no-workers", monkeypatch, dataset__num_workers_per_gpu=0)
    assert made.task.train_loader(0, 0).num_workers == 0


def test_switches_reach_torch(places: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[Any] = []
    monkeypatch.setattr(torch, "compile", lambda model: compiled.append(model) or model)
    recomputed: list[bool] = []
    whole = train_action.make_task

    def recorded(*args: Any) -> Any:
        made = whole(*args)
        recomputed.append(
            any(getattr(part, "grad_checkpointing", False) for part in made.model.modules())
        )
        return made

    monkeypatch.setattr(train_action, "make_task", recorded)
    loop_of(places, "plain", monkeypatch)
    assert (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic) == (False, True)
    assert not compiled
    switched = {
        "train__cudnn__benchmark": True,
        "train__cudnn__deterministic": False,
        "train__compile": True,
    }
    made = loop_of(places, "switched", monkeypatch, **switched, train__gradient_checkpointing=True)
    assert (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic) == (True, False)
    assert compiled == [made.task.model]
    assert recomputed == [False, True]
    torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = False, False


def test_devices_decide_how_the_run_is_started(
    places: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RANK", raising=False)

    def ranks(**changes: Any) -> int | None:
        return ranks_to_start(
            "train",
            ExperimentSpec.model_validate(spec(Path(places[DATA]), Path("unused"), **changes)),
        )

    assert ranks() is None
    assert ranks(train__num_gpus=2) == 2 and ranks(train__gpu_ids=[0, 1, 2]) == 3
    assert ranks(train__num_gpus=2, train__gpu_ids=[0, 1, 2]) == 3, "the larger setting"
    for number, wanted in ((1, 3), (3, 3), (4, 4)):
        monkeypatch.setenv("NUM_GPU_PER_NODE", str(number))
        assert ranks(train__num_gpus=2, train__gpu_ids=[0, 1, 2]) == wanted, (
            "the orchestrator's number is one more setting"
        )
        section = ExperimentSpec.model_validate(
            spec(Path(places[DATA]), Path("unused"), train__gpu_ids=[5])
        ).train
        assert device_ids(section) == [5, 0, 1, 2][:number]
    monkeypatch.setenv("NUM_GPU_PER_NODE", "many")
    with pytest.raises(UsageError, match="NUM_GPU_PER_NODE is not a number"):
        ranks()
    monkeypatch.delenv("NUM_GPU_PER_NODE")
    with pytest.raises(UsageError, match="2 nodes are asked for"):
        ranks(train__num_nodes=2)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="MASTER_ADDR and MASTER_PORT and NODE_RANK are not set"):
        ranks(train__num_nodes=2)
    place = {"NODE_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
    for name, value in place.items():
        monkeypatch.setenv(name, value)
    assert ranks(train__num_nodes=2) == 1, "one rank of two nodes"
    for name in ("WORLD_SIZE", *place):
        monkeypatch.delenv(name)
    if not torch.cuda.is_available():
        made = spec(Path(places[DATA]), Path(places["<root>"]) / "gpu", train__accelerator="gpu")
        assert train(made) == 7


def test_the_strategy_of_several_ranks_is_the_one_asked_for(
    places: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = loop_of(places, "strategy", monkeypatch)
    asked: list[Any] = []

    class Recorder:
        def __init__(self, **arguments: Any) -> None:
            asked.append(type(arguments["strategy"]).__name__)

        def launch(self) -> None: ...

    monkeypatch.setattr(fabric, "Fabric", Recorder)
    made.context.world_size = 2
    for name in ("ddp", "fsdp"):
        made.spec.train.distributed_strategy = name
        fabric.make_fabric(made.spec, made.context, made.task.model, unused=False)
    assert asked == ["DDPStrategy", "ModelParallelStrategy"]


def test_test_data_sources_are_for_inference() -> None:
    """Training does not read them; inference refuses to start without."""
    bundle = Bundle.load()
    layers = layers_of(bundle, "inference", {"inference": {"checkpoint": "a.pth"}})
    errors = resolve(bundle, "inference", layers).errors
    assert "dataset.test_data_sources" in {error.field for error in errors}


def test_fields_of_several_labels_are_for_tables() -> None:
    """What they do: tests/training/test_multi_label.py."""
    given = {"model": {"multi_label": True}, "dataset": {"train_data_sources": "images"}}
    given["train"] = {"stage": "finetune"}
    merged = merge([(OriginKind.SPEC_FILE, given)], Bundle.load().schema("train"))
    errors, _ = check_rules("train", merged.spec, merged.provenance)
    assert [error.field for error in errors] == ["dataset.labels.train"]


def test_segmentation_is_a_task_of_fine_tuning() -> None:
    """What the task changes in a fine-tuning is shown with the segmenter's own fields; in
    pretraining it is refused."""
    given = {"model": {"task": "segmentation"}, "dataset": {"train_data_sources": "images"}}
    merged = merge([(OriginKind.SPEC_FILE, given)], Bundle.load().schema("train"))
    errors, _ = check_rules("train", merged.spec, merged.provenance)
    assert "model.task" in {error.field for error in errors}
