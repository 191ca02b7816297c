"""``train``: stage, duration, devices, optimizer, checkpoints."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from mae_skill.spec.fields import (
    CLASSIFICATION,
    FINETUNE,
    PRETRAIN,
    SEGMENTATION,
    Index,
    NonEmpty,
    Path,
    Positive,
    SpecModel,
    search,
    spec_field,
)

_FINETUNE_FROM_WEIGHTS = {**FINETUNE, "train.pretrained_model_path": {"set": True}}
_MULTISTEP = {"train.optim.lr_scheduler": "MultiStep"}
_DECAYS = {"train.optim.lr_scheduler": ["cosine", "poly"]}
_CLASSIFIES = {**FINETUNE, **CLASSIFICATION}
_SINGLE = {**_CLASSIFIES, "model.multi_label": False}
_FEW = {**_SINGLE, "model.num_classes": {"le": 300}}  # of more no confusion matrix is kept
_MULTI = {**_CLASSIFIES, "model.multi_label": True}
_TEACHER = {**PRETRAIN, "train.teacher.checkpoint": {"set": True}}
_REFINES = {**PRETRAIN, "train.refine.blocks": {"gt": 0}}
_PROBE = {**PRETRAIN, "train.probe.interval": {"gt": 0}}
_MASKING = ["train.mask_ratio", "train.norm_pix_loss", "model.patch_size"]
_LOSSES = ["train.loss", "train.focal_gamma", "train.dice_weight"]
_SOFTENING = (
    *("mixup", "cutmix", "mixup_prob", "mixup_switch_prob", "mixup_mode", "smoothing"),
    *("auto_aug", "re_prob", "color_jitter", "min_scale", "max_scale"),
)
_OF_SIZE = [
    *("model.arch", "model.task", "model.patch_size", "model.num_classes", "model.global_pool"),
    *("model.embed_dim", "model.depth", "model.num_heads", "model.mlp_ratio", "model.decoder"),
    *("model.segmentation", "dataset.channels", "dataset.augmentation.input_size"),
    *("train.stage", "train.freeze", "train.teacher", "train.refine.blocks"),
]
"""How the names begin of the fields that change the number of parameters."""
_OF_FORWARD = [
    *(name for name in _OF_SIZE if name.startswith("dataset.") or name == "train.stage"),
    *(name for name in _OF_SIZE if name.startswith("model.") and name != "model.decoder"),
]
"""Those that change the time of one picture through the model, or through its encoder."""
_OF_STEP = [
    *(*_OF_SIZE, "dataset.batch_size", "train.mask_ratio", "train.loss", "train.optim.type"),
    *("train.precision", "train.gradient_checkpointing", "train.compile", "train.ema_decay"),
    *("train.accum_grad_batches", "train.distributed_strategy", "train.cudnn"),
]
"""Those that change the memory of a step; of its time, those of the data do, too."""
_ENDS_EARLY = {"train.early_stopping.patience": {"set": True}}

AUTOML_METRICS: list[dict[str, Any]] = [
    {
        "when": {
            **PRETRAIN,
            "dataset.probe_train_data_sources": {"set": True},
            "train.probe.interval": {"gt": 0},
        },
        "metric": "knn_acc",
        "direction": "maximize",
    },
    {
        "when": PRETRAIN,
        "metric": "train_loss",
        "direction": "minimize",
        "incomparable": [
            *_MASKING,
            *("dataset.augmentation.min_scale", "dataset.augmentation.max_scale"),
            "dataset.augmentation.color_jitter",  # smoother pictures are easier to fill in
            *("train.teacher.weight", "train.teacher.layer", "train.teacher.sees"),
            *("train.refine.blocks", "train.refine.temperature"),
            *("train.refine.queue_size", "train.refine.neighbors"),
        ],
    },
    {
        "when": _REFINES,
        "metric": "train_loss",
        "direction": "minimize",
        # Fewer pictures to be told from, and views that differ less, make it smaller.
        "incomparable": [
            "dataset.batch_size",
            *(f"dataset.augmentation.{name}" for name in ("hflip", "vflip", "rotation", "shear")),
            *(f"dataset.augmentation.{name}" for name in ("zoom", "shift", "min_ratio")),
            "dataset.augmentation.max_ratio",
        ],
    },
    {
        "when": {
            **PRETRAIN,
            "dataset.probe_train_data_sources": {"set": True},
            "train.probe.interval": {"gt": 0},
        },
        "metric": "linear_acc",
        "direction": "maximize",
    },
    {
        "when": {**PRETRAIN, "dataset.val_data_sources": {"set": True}},
        "metric": "rankme",
        "direction": "maximize",
    },
    {"when": {**FINETUNE, **SEGMENTATION}, "metric": "mIoU", "direction": "maximize"},
    {"when": {**FINETUNE, **SEGMENTATION}, "metric": "mAcc", "direction": "maximize"},
    {"when": {**FINETUNE, **SEGMENTATION}, "metric": "aAcc", "direction": "maximize"},
    {"when": _MULTI, "metric": "mAP", "direction": "maximize"},
    {"when": _SINGLE, "metric": "ACC_all", "direction": "maximize"},
    {
        "when": {**_SINGLE, "model.num_classes": {"gt": 5}},
        "metric": "ACC_top5",
        "direction": "maximize",
    },
    *(
        {"when": when, "metric": name, "direction": direction}
        for name, direction in (
            ("balanced_accuracy", "maximize"),
            ("f1_macro", "maximize"),
            ("f1_weighted", "maximize"),
            ("f1_micro", "maximize"),
            ("auroc", "maximize"),
            ("ece", "minimize"),
        )
        for when, missing in (
            (_FEW, ("f1_micro",)),
            (_MULTI, ("balanced_accuracy", "f1_weighted")),
        )
        if name not in missing
    ),
    {
        "when": FINETUNE,
        "metric": "val_loss",
        "direction": "minimize",
        "incomparable": _LOSSES,
    },
    {
        "when": {**PRETRAIN, "dataset.val_data_sources": {"set": True}},
        "metric": "val_loss",
        "direction": "minimize",
        "incomparable": _MASKING,
    },
    {
        "when": FINETUNE,
        "metric": "train_loss",
        "direction": "minimize",
        "incomparable": [
            *_LOSSES,
            # What is drawn or softened makes the loss of the training images another one.
            *(f"dataset.augmentation.{name}" for name in _SOFTENING),
        ],
    },
    {"metric": "parameters", "direction": "minimize", "changed_by": _OF_SIZE},
    {"metric": "latency_ms", "direction": "minimize", "changed_by": _OF_FORWARD},
    {"when": _ENDS_EARLY, "metric": "seconds", "direction": "minimize"},
    *(
        {
            "metric": name,
            "direction": "minimize",
            "changed_by": [*_OF_STEP, "dataset.", "train.early_stopping"],
        }
        for name in ("seconds", "time_per_epoch", "time_per_step")
    ),
    {"metric": "peak_memory_mb", "direction": "minimize", "changed_by": _OF_STEP},
]
"""Every metric that a run reports, and where: the first entry whose ``when`` holds is what a search
optimizes unless told otherwise, every entry makes its metric's direction known, ``incomparable``
names the fields across whose values the metric does not compare, and ``changed_by`` how the names
begin of the only fields that change it: of the entries that hold, the first counts."""
OpenUnit = Annotated[float, Field(gt=0.0, lt=1.0)]
ClassWeight = Annotated[float, Field(ge=0.0, le=1e6)]
ClassWeights = Annotated[str, Field(pattern="^balanced$")] | dict[str, ClassWeight]


class OptimSpec(SpecModel):
    """The optimizer and its schedule."""

    type: Literal["AdamW", "Muon"] = spec_field(
        "AdamW",
        "AdamW; or Muon (arXiv 2502.16982): orthogonalized updates for the matrices inside the "
        "network, at the rates of AdamW, which keeps embeddings, biases, norms and the last layer.",
        related=["train.optim.lr", "train.optim.momentum", "train.distributed_strategy"],
    )
    monitor_name: Literal["train_loss", "val_loss"] = spec_field(
        "train_loss",
        "The loss that early stopping watches, and that chooses the best checkpoint where "
        "there is no accuracy.",
        related=["train.early_stopping.patience"],
        automl_disabled=True,
    )
    lr: float = spec_field(
        2e-4,
        "Peak learning rate. With lr_scaling linear it is the base rate, multiplied by "
        "effective batch / 256.",
        gt=0.0,
        search=[
            search(1e-5, 2e-3, log=True, when=PRETRAIN),
            search(1e-5, 5e-3, log=True, when=FINETUNE),
        ],
        automl_default=True,
        popular=True,
        related=["train.optim.lr_scaling", "train.optim.warmup_epochs", "dataset.batch_size"],
        le=1e4,
    )
    lr_scaling: Literal["none", "linear"] = spec_field(
        "none",
        "linear: the rate used is lr × effective batch / 256 (the papers' base learning "
        "rate); none: lr as given.",
        related=["train.optim.lr", "dataset.batch_size"],
    )
    min_lr: float = spec_field(
        0.0,
        "The rate at the end of the cosine or of poly; not scaled.",
        ge=0.0,
        applies_when=_DECAYS,
        related=["train.optim.lr"],
        le=1e4,
    )
    backbone_multiplier: float = spec_field(
        0.1,
        "Multiplies the learning rate of the backbone (everything but the head). Acts only in "
        "fine-tuning from pretrained weights.",
        gt=0.0,
        applies_when=_FINETUNE_FROM_WEIGHTS,
        search=search(0.05, 1.0, log=True),
        related=["train.optim.layer_decay"],
        le=1e4,
    )
    momentum: float = spec_field(0.9, "β1 of AdamW. Muon's own momentum is 0.95.", gt=0.0, lt=1.0)
    beta2: OpenUnit | None = spec_field(
        None,
        "β2 of AdamW; null = 0.95 in pretraining and 0.999 in fine-tuning.",
        search=search(0.9, 0.999),
    )
    weight_decay: float = spec_field(
        0.05,
        "Decoupled weight decay; biases, norms and position embeddings are exempt.",
        ge=0.0,
        search=search(1e-3, 0.3, log=True),
        automl_default=True,
        popular=True,
        le=1e4,
    )
    layer_decay: float = spec_field(
        0.75,
        "Layer-wise decay of the learning rate: layer i of n is scaled by layer_decay^(n-i). "
        "Acts only in fine-tuning from pretrained weights.",
        gt=0.0,
        applies_when=_FINETUNE_FROM_WEIGHTS,
        search=search(0.5, 1.0),
        automl_default=True,
        popular=True,
        related=["train.optim.backbone_multiplier"],
        le=10.0,
    )
    lr_scheduler: Literal["MultiStep", "cosine", "poly"] = spec_field(
        "MultiStep",
        "MultiStep: lr × gamma at every milestone; cosine: half a cosine down to min_lr; "
        "poly: a straight line down to min_lr (power 1, "
        "as the MAE and BEiT segmentation recipes have it). All after the warm-up.",
        automl_enabled=True,
        popular=True,
    )
    milestones: list[Positive] = spec_field(
        [88, 96],
        "Epochs at which the rate is multiplied by gamma.",
        unit="epochs",
        applies_when=_MULTISTEP,
        related=["train.num_epochs", "train.optim.gamma"],
    )
    gamma: float = spec_field(
        0.1,
        "Factor of the rate at each milestone.",
        gt=0.0,
        applies_when=_MULTISTEP,
        search=search(0.05, 0.9, log=True),
        related=["train.optim.milestones"],
        le=1e4,
    )
    warmup_epochs: int = spec_field(
        1,
        "Epochs of linear warm-up from 0, per step; acts with every scheduler.",
        ge=0,
        unit="epochs",
        search=search(0, 20, step=1),
        automl_default=True,
        math_cond="< depends_on",
        depends_on="train.num_epochs",
        popular=True,
        related=["train.num_epochs"],
        le=2**31 - 1,
    )


class CudnnSpec(SpecModel):
    """cuDNN switches."""

    benchmark: bool = spec_field(False, "Let cuDNN time its kernels and pick the fastest.")
    deterministic: bool = spec_field(True, "Only deterministic kernels.")


class EarlyStoppingSpec(SpecModel):
    """Stop when the monitored loss no longer falls."""

    patience: Positive | None = spec_field(
        None,
        "Validations (or epochs) without improvement before the run stops; null = off.",
        unit="epochs",
    )
    min_delta: float = spec_field(
        0.0,
        "Least fall of the loss that counts as improvement.",
        ge=0.0,
        applies_when={"train.early_stopping.patience": {"set": True}},
        le=1e9,
    )


class ProbeSpec(SpecModel):
    """A kNN classifier on frozen features: the quality signal of pretraining."""

    interval: int = spec_field(
        0,
        "Epochs between probes; 0 = off.",
        ge=0,
        unit="epochs",
        applies_when={**PRETRAIN, "dataset.probe_train_data_sources": {"set": True}},
        le=2**31 - 1,
        automl_disabled=True,
    )
    k: Positive = spec_field(
        20, "Neighbors of the kNN vote.", applies_when=_PROBE, automl_disabled=True
    )


class TeacherSpec(SpecModel):
    """A trained ViT whose features a pretrained ViT learns beside the pixels (DMAE, arXiv
    2208.12256)."""

    checkpoint: Path = spec_field(
        None,
        "The teacher's weights: all that pretrained_model_path takes, of a ViT with the patch and "
        "the channels of this model; its width and depth are its own. Null = no teacher.",
        applies_when=PRETRAIN,
        related=["train.teacher.weight", "train.teacher.layer"],
        affects_training=False,  # its content decides, by digest
    )
    weight: float = spec_field(
        1.0,
        "Weight of the teacher's loss beside that of the pixels.",
        gt=0.0,
        le=1e4,
        applies_when=_TEACHER,
    )
    layer: Positive | None = spec_field(
        None,
        "The teacher's block whose output is learned, from 1; null = at three quarters of its "
        "depth. The model learns it at the same share of its own depth.",
        applies_when=_TEACHER,
    )
    sees: Literal["visible", "all"] = spec_field(
        "visible",
        "What the teacher is shown: the visible patches alone, or the whole picture. Its features "
        "of the visible patches are learned in either case.",
        applies_when=_TEACHER,
        related=["train.mask_ratio"],
    )


class RefineSpec(SpecModel):
    """A stage after masked pretraining: the last blocks of a trained encoder learn by contrast
    (MIM-Refiner, arXiv 2402.10093; MAE-CT, arXiv 2304.10520)."""

    blocks: int = spec_field(
        0,
        "How many of the encoder's last blocks learn, from trained weights; those before them, and "
        "the decoder, stay as they are. 0 = off: masked pretraining.",
        ge=0,
        le=2**31 - 1,
        unit="blocks",
        applies_when=PRETRAIN,
        related=["train.pretrained_model_path", "train.refine.layer_decay"],
        automl_disabled=True,
    )
    temperature: float = spec_field(
        0.2,
        "Temperature of the contrast: lower ones weigh the nearest pictures more.",
        ge=0.01,
        le=10.0,
        applies_when=_REFINES,
    )
    queue_size: Positive = spec_field(
        8192,
        "Projections of earlier pictures that neighbors are looked up in; every checkpoint holds "
        "them.",
        unit="pictures",
        applies_when=_REFINES,
        related=["train.refine.neighbors"],
    )
    neighbors: Positive = spec_field(
        20,
        "A picture is drawn to one of so many nearest neighbors of its other view.",
        unit="pictures",
        applies_when=_REFINES,
        related=["train.refine.queue_size"],
    )
    layer_decay: float = spec_field(
        0.65,
        "Layer-wise decay of the learning rate: layer i of n is scaled by layer_decay^(n-i).",
        gt=0.0,
        le=1.0,
        applies_when=_REFINES,
        related=["train.optim.lr"],
    )


class TrainSpec(SpecModel):
    """Configurable parameters of training."""

    stage: Literal["pretrain", "finetune"] = spec_field(
        "pretrain",
        "pretrain: reconstruct masked patches of unlabeled images; finetune: train a "
        "classifier or a segmenter on labeled ones "
        "(see model.task).",
        popular=True,
        automl_disabled=True,
    )
    num_epochs: Positive = spec_field(
        10,
        "Epochs of the run.",
        unit="epochs",
        popular=True,
        automl_disabled=True,
        affects_training=False,
    )
    accum_grad_batches: Positive = spec_field(
        1,
        "Batches whose gradients are summed before one optimizer step.",
        unit="batches",
        related=["dataset.batch_size"],
    )
    precision: Literal["fp32", "bf16", "fp16"] = spec_field(
        "fp32", "Arithmetic of forward and backward.", popular=True
    )
    accelerator: Literal["auto", "gpu", "cpu"] = spec_field(
        "auto",
        "auto: the GPUs, or one CPU process where there is none; gpu: fail without one; cpu: "
        "num_gpus means processes.",
        automl_disabled=True,
        affects_training=False,
    )
    distributed_strategy: Literal["ddp", "fsdp"] = spec_field(
        "ddp",
        "ddp: a replica on every device; fsdp: parameters sharded over the devices, in fp16 "
        "or bf16.",
        related=["train.num_gpus", "train.num_nodes", "train.precision"],
    )
    norm_pix_loss: bool = spec_field(
        True,
        "Reconstruct pixels normalized by their own patch's mean and variance.",
        applies_when=PRETRAIN,
        automl_enabled=True,
        popular=True,
    )
    mask_ratio: float = spec_field(
        0.75,
        "Share of the mask units that is hidden (the papers: 0.75 for ViT, 0.6 for ConvNeXt "
        "V2 and Hiera).",
        gt=0.0,
        lt=1.0,
        applies_when=PRETRAIN,
        search=search(0.4, 0.9),
        popular=True,
        related=["model.arch", "dataset.augmentation.input_size"],
    )
    num_gpus: Positive = spec_field(
        1,
        "Devices on each node. Where gpu_ids names more, its count is taken.",
        unit="devices",
        popular=True,
        related=["train.gpu_ids"],
        automl_disabled=True,
        affects_training=False,
    )
    gpu_ids: list[Index] = spec_field(
        [0],
        "Indices of the devices. Where num_gpus is larger, the first num_gpus devices are taken.",
        min_length=1,
        related=["train.num_gpus"],
        automl_disabled=True,
        affects_training=False,
    )
    num_nodes: Positive = spec_field(
        1,
        "Machines that train together.",
        unit="nodes",
        related=["train.num_gpus"],
        automl_disabled=True,
        affects_training=False,
    )
    seed: int = spec_field(
        1234,
        "Seed of everything random: order, augmentation, masks, initial weights.",
        ge=1,
        le=2**32 - 1,
        automl_disabled=True,
    )
    cudnn: CudnnSpec = spec_field(CudnnSpec, "cuDNN switches.", affects_training=False)
    checkpoint_interval: Positive = spec_field(
        1,
        "Epochs (or steps) between checkpoints.",
        popular=True,
        related=["train.checkpoint_interval_unit", "train.keep_checkpoints"],
        affects_training=False,
        automl_disabled=True,
    )
    checkpoint_interval_unit: Literal["epoch", "step"] = spec_field(
        "epoch",
        "What checkpoint_interval counts.",
        affects_training=False,
        automl_disabled=True,
    )
    keep_checkpoints: Positive | None = spec_field(
        None,
        "How many of the newest checkpoints stay on disk, beside the best one: 1 keeps two files "
        "where the best is not the newest. Null = all; the trials of a search keep 1.",
        unit="checkpoints",
        related=["train.checkpoint_interval"],
        affects_training=False,
        automl_disabled=True,
    )
    validation_interval: Positive = spec_field(
        1,
        "Epochs between validations, and between pictures of reconstructions in pretraining; "
        "the last epoch always counts.",
        unit="epochs",
        affects_training=False,
        automl_disabled=True,
    )
    resume_training_checkpoint_path: Path = spec_field(
        None,
        "A checkpoint of this run to continue from, to the very step.",
        affects_training=False,
        automl_disabled=True,
    )
    pretrained_model_path: Path = spec_field(
        None,
        "Pretrained weights to start from, in either stage; null in fine-tuning trains from "
        "scratch.",
        popular=True,
        affects_training=False,
    )
    loss: Literal["cross_entropy", "focal", "dice"] = spec_field(
        "cross_entropy",
        "Loss of fine-tuning. focal: cross-entropy × (1 - p)^focal_gamma, p the probability of the "
        "truth, so that what is easy counts for less (arXiv 1708.02002). dice: 1 - the mean Dice "
        "of the classes in a mask, for segmentation alone.",
        applies_when=FINETUNE,
        related=["train.focal_gamma", "train.dice_weight"],
    )
    focal_gamma: float = spec_field(
        2.0,
        "Exponent of the focal loss; 0 is cross-entropy.",
        ge=0.0,
        le=10.0,
        applies_when={**FINETUNE, "train.loss": "focal"},
        related=["train.loss"],
    )
    dice_weight: float = spec_field(
        0.0,
        "Adds this × the Dice loss to the cross-entropy or focal loss of a segmenter; 0 = none.",
        ge=0.0,
        le=1e3,
        applies_when={**FINETUNE, **SEGMENTATION, "train.loss": ["cross_entropy", "focal"]},
        related=["train.loss"],
    )
    class_weights: ClassWeights | None = spec_field(
        None,
        "Weight of each class in the loss. balanced: images / (classes × images of the class), for "
        "a classifier; or a mapping of class to weight, 1 for those that it does not name: of each "
        "image, or each pixel of a mask. Null = all alike. Validation does not weight.",
        applies_when={**FINETUNE, "train.loss": ["cross_entropy", "focal"]},
        related=["dataset.balanced_sampling"],
    )
    teacher: TeacherSpec = spec_field(
        TeacherSpec,
        "A trained ViT whose features a pretrained ViT learns beside the pixels.",
        applies_when=PRETRAIN,
    )
    refine: RefineSpec = spec_field(
        RefineSpec,
        "A stage after masked pretraining: the last blocks of a trained encoder learn by contrast.",
        applies_when=PRETRAIN,
    )
    freeze: list[NonEmpty] = spec_field(
        [],
        "Names (or prefixes) of modules whose parameters stay as they are, e.g. patch_embed "
        "or blocks.0; encoder: all but the head.",
    )
    clip_grad_norm: Annotated[float, Field(gt=0.0)] | None = spec_field(
        None,
        "Largest norm of the gradient; beyond it gradients are scaled down. Null = no clipping.",
    )
    ema_decay: OpenUnit | None = spec_field(
        None,
        "Decay of a moving average of the weights, which then is what is validated and saved. "
        "Null = off.",
    )
    gradient_checkpointing: bool = spec_field(
        False, "Recompute activations in the backward pass: less memory, more time."
    )
    compile: bool = spec_field(
        False, "Compile the model with torch.compile.", affects_training=False
    )
    early_stopping: EarlyStoppingSpec = spec_field(
        EarlyStoppingSpec,
        "Stop when the monitored loss no longer falls.",
        related=["train.optim.monitor_name"],
        affects_training=False,
    )
    probe: ProbeSpec = spec_field(
        ProbeSpec,
        "A kNN classifier on frozen features: the quality signal of pretraining.",
        affects_training=False,
    )
    optim: OptimSpec = spec_field(OptimSpec, "The optimizer and its schedule.")
    results_dir: Path = spec_field(
        None,
        "Where checkpoints go; null = <results_dir>/train.",
        affects_training=False,
        automl_disabled=True,
    )
