"""``dataset``: where images come from and how they are augmented."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mae_skill.spec.fields import (
    CLASSIFICATION,
    FINETUNE,
    PRETRAIN,
    SEGMENTATION,
    NonEmpty,
    Positive,
    Sources,
    SpecModel,
    search,
    spec_field,
)
from mae_skill.spec.labels import LabelsSpec

Side = Annotated[int, Field(ge=1, le=16_384)]
InputSize = Side | Annotated[list[Side], Field(min_length=2, max_length=2)]
Std = Annotated[float, Field(ge=1e-6, le=1e6)]
Factor = Annotated[float, Field(ge=0.01, le=100.0)]
Mean = Annotated[float, Field(ge=-1e6, le=1e6)]
_LABELS = {**FINETUNE, **CLASSIFICATION}

MAX_CHANNELS = 512
MaskValue = Annotated[int, Field(ge=0, le=65_535)]
Channels = Annotated[int, Field(ge=1, le=MAX_CHANNELS)]
End = Annotated[float, Field(ge=-1e12, le=1e12)]
RangeWord = Annotated[str, Field(pattern="^(dtype|auto)$")]
ValueRange = RangeWord | Annotated[list[End], Field(min_length=2, max_length=2)]


class SegmentationAugmentationSpec(SpecModel):
    """What is drawn anew for image and mask together in training a segmenter."""

    scale_jitter: list[Factor] = spec_field(
        [0.5, 2.0],
        "Smallest and largest factor of the random resize, over the scale at which the image "
        "just covers the crop.",
        min_length=2,
        max_length=2,
        applies_when=SEGMENTATION,
    )
    max_class_share: float = spec_field(
        0.75,
        "A crop is drawn again, up to ten times, while one class covers more than this share "
        "of its labeled pixels; 1 = never.",
        gt=0.0,
        le=1.0,
        applies_when=SEGMENTATION,
    )
    photometric: bool = spec_field(
        True,
        "Random brightness, contrast, saturation and hue, each with probability 0.5.",
        applies_when=SEGMENTATION,
    )


class AugmentationSpec(SpecModel):
    """Hyperparameters of data augmentation."""

    input_size: InputSize = spec_field(
        224,
        "Input size: one side, or [height, width]. Each side a multiple of the patch for ViT "
        "and of 32 for ConvNeXt V2 and Hiera.",
        unit="pixels",
        popular=True,
        automl_disabled=True,
        related=["model.arch"],
    )
    mean: list[Mean] = spec_field(
        [0.485, 0.456, 0.406],
        "Mean of each channel for normalization, of pixels in [0, 1]: one value per channel, or "
        "one for all. The default serves three; else its average is taken.",
        min_length=1,
        max_length=MAX_CHANNELS,
        related=["dataset.channels"],
    )
    std: list[Std] = spec_field(
        [0.229, 0.224, 0.225],
        "Standard deviation of each channel for normalization, of pixels in [0, 1]: one value per "
        "channel, or one for all. The default serves three; else its average is taken.",
        min_length=1,
        max_length=MAX_CHANNELS,
        related=["dataset.channels"],
    )
    min_scale: float = spec_field(
        0.1,
        "Smallest area of the random crop, as a share of the image.",
        gt=0.0,
        search=search(0.05, 0.9),
        related=["dataset.augmentation.max_scale"],
        applies_when=CLASSIFICATION,
        le=100.0,
    )
    max_scale: float = spec_field(
        2.0,
        "Largest area of the random crop, as a share of the image. Above 1 it has the meaning "
        "RandomResizedCrop gives it: "
        "areas beyond the image are drawn again, so large crops become likelier.",
        gt=0.0,
        related=["dataset.augmentation.min_scale"],
        applies_when=CLASSIFICATION,
        le=100.0,
    )
    min_ratio: float = spec_field(
        0.75,
        "Smallest aspect ratio (width over height) of the random crop.",
        related=["dataset.augmentation.max_ratio"],
        applies_when=CLASSIFICATION,
        gt=0.0,
        le=1000.0,
    )
    max_ratio: float = spec_field(
        1.33,
        "Largest aspect ratio (width over height) of the random crop.",
        related=["dataset.augmentation.min_ratio"],
        applies_when=CLASSIFICATION,
        gt=0.0,
        le=1000.0,
    )
    smoothing: float = spec_field(
        0.1,
        "Label smoothing.",
        ge=0.0,
        lt=1.0,
        applies_when=_LABELS,
        search=search(0.0, 0.3),
        related=["dataset.augmentation.mixup"],
    )
    color_jitter: float = spec_field(
        0.0,
        "Strength of the random change of brightness, contrast and saturation; 0 = off.",
        ge=0.0,
        search=search(0.0, 0.5),
        applies_when=CLASSIFICATION,
        le=100.0,
    )
    auto_aug: NonEmpty | None = spec_field(
        "rand-m9-mstd0.5-inc1",
        "Auto-augmentation policy in timm's notation; null = off.",
        applies_when=_LABELS,
    )
    mixup: float = spec_field(
        0.8,
        "Mixup alpha; 0 = off.",
        ge=0.0,
        applies_when=_LABELS,
        search=search(0.0, 1.0),
        automl_default=True,
        popular=True,
        related=[
            "dataset.augmentation.cutmix",
            "dataset.augmentation.mixup_prob",
            "dataset.augmentation.mixup_switch_prob",
        ],
        le=1000.0,
    )
    cutmix: float = spec_field(
        1.0,
        "CutMix alpha; 0 = off.",
        ge=0.0,
        applies_when=_LABELS,
        search=search(0.0, 1.0),
        popular=True,
        related=[
            "dataset.augmentation.mixup",
            "dataset.augmentation.mixup_prob",
            "dataset.augmentation.mixup_switch_prob",
        ],
        le=1000.0,
    )
    mixup_prob: float = spec_field(
        1.0,
        "Probability of applying mixup or CutMix to a batch (or pair, or element).",
        ge=0.0,
        le=1.0,
        applies_when=_LABELS,
        search=search(0.0, 1.0),
    )
    mixup_switch_prob: float = spec_field(
        0.5,
        "Probability of CutMix rather than mixup where both are on.",
        ge=0.0,
        le=1.0,
        applies_when={
            **_LABELS,
            "dataset.augmentation.mixup": {"gt": 0},
            "dataset.augmentation.cutmix": {"gt": 0},
        },
        search=search(0.0, 1.0),
        parent_param="dataset.augmentation.cutmix",
    )
    mixup_mode: Literal["batch", "pair", "elem"] = spec_field(
        "batch",
        "One mixing ratio for the batch, for each pair, or for each element.",
        applies_when=_LABELS,
        automl_enabled=True,
        option_weights=[0.5, 0.25, 0.25],
    )
    interpolation: Literal["random", "bilinear", "bicubic"] = spec_field(
        "random",
        "Interpolation of the random crop; random = bilinear or bicubic, drawn for every image.",
        automl_enabled=True,
        applies_when=CLASSIFICATION,
    )
    center_crop: float = spec_field(
        0.875,
        "Validation, evaluation and inference bring the short side to input_size / center_crop "
        "and cut out the center; 1 = no margin. Published protocols: 0.875 up to 224 pixels, 1 "
        "above.",
        gt=0.0,
        le=1.0,
        related=["dataset.augmentation.input_size"],
        applies_when=CLASSIFICATION,
        automl_disabled=True,  # trials would be judged by other pixels
    )
    eval_interpolation: Literal["bilinear", "bicubic", "lanczos"] = spec_field(
        "bicubic",
        "Filter of the resizing in validation, evaluation and inference, Pillow's, which "
        "antialiases; published MAE models were judged by bicubic.",
        related=["dataset.augmentation.center_crop"],
        applies_when=CLASSIFICATION,
        automl_disabled=True,  # trials would be judged by other pixels
    )
    hflip: float = spec_field(
        0.5, "Probability of a horizontal flip.", ge=0.0, le=1.0, search=search(0.0, 0.5)
    )
    vflip: float = spec_field(
        0.0,
        "Probability of a vertical flip: for pictures without an up, as from satellites and "
        "microscopes.",
        ge=0.0,
        le=1.0,
        search=search(0.0, 0.5),
        applies_when=CLASSIFICATION,
    )
    rotation: float = spec_field(
        0.0,
        "Largest random rotation, either way. With shear, zoom and shift one affine change, after "
        "the crop; what comes in from outside is the mirrored image.",
        ge=0.0,
        le=180.0,
        unit="degrees",
        search=search(0.0, 30.0),
        related=["dataset.augmentation.shear", "dataset.augmentation.zoom"],
        applies_when=CLASSIFICATION,
    )
    shear: float = spec_field(
        0.0,
        "Largest random shear along the rows, either way.",
        ge=0.0,
        le=60.0,
        unit="degrees",
        search=search(0.0, 20.0),
        related=["dataset.augmentation.rotation"],
        applies_when=CLASSIFICATION,
    )
    zoom: float = spec_field(
        0.0,
        "Largest random change of scale, as a share: 0.2 makes things 1/1.2 to 1.2 times as large.",
        ge=0.0,
        le=4.0,
        search=search(0.0, 0.5),
        related=["dataset.augmentation.rotation", "dataset.augmentation.min_scale"],
        applies_when=CLASSIFICATION,
    )
    shift: float = spec_field(
        0.0,
        "Largest random shift in either direction, as a share of the side.",
        ge=0.0,
        le=0.5,
        search=search(0.0, 0.2),
        related=["dataset.augmentation.rotation"],
        applies_when=CLASSIFICATION,
    )
    re_prob: float = spec_field(
        0.0,
        "Probability of random erasing.",
        ge=0.0,
        le=1.0,
        applies_when=_LABELS,
        search=search(0.0, 0.5),
    )
    reduced_decode: bool = spec_field(
        False,
        "Decode large JPEGs at a half, quarter or eighth of their size in training, never "
        "below the crop's size in pixels. "
        "Several times faster on photographs much larger than the input; pixels differ "
        "slightly from a full decode.",
        applies_when=CLASSIFICATION,
    )
    max_pixels: Positive = spec_field(
        89_478_485,
        "Images with more pixels count as unreadable; one at the default takes some 650 MB of "
        "memory to decode.",
        unit="pixels",
        affects_training=False,
    )
    segmentation: SegmentationAugmentationSpec = spec_field(
        SegmentationAugmentationSpec,
        "What is drawn anew for image and mask together in training a segmenter.",
    )


class SegmentationSpec(SpecModel):
    """Where the masks of the images are, and what their values mean.

    A mask is a picture of one channel (or a palette), as large as its image, with the same relative
    path but for the suffix. Without mask sources, images lie under `images/` and masks under
    `annotations/` of the same folder or archive.
    """

    train_mask_sources: Sources = spec_field(
        None,
        "Masks of the training images. Null: `annotations/` beside `images/`.",
        applies_when=SEGMENTATION,
        affects_training=False,
    )
    val_mask_sources: Sources = spec_field(
        None,
        "Masks of the validation images. Null: `annotations/` beside `images/`.",
        applies_when=SEGMENTATION,
        affects_training=False,
        automl_disabled=True,
    )
    test_mask_sources: Sources = spec_field(
        None,
        "Masks of the images for inference, where there are any: predictions are then scored too. "
        "Null: `annotations/` beside `images/`, or none.",
        applies_when=SEGMENTATION,
        affects_training=False,
        automl_disabled=True,
    )
    class_list: Sources = spec_field(
        None,
        "Names of the classes: a list of them, or a text file with one per line or a YAML list. "
        "Null: the names of ADE20K where there are 150 classes, else the numbers.",
        applies_when=SEGMENTATION,
        related=["model.num_classes"],
        automl_disabled=True,
    )
    ignore_index: int = spec_field(
        255,
        "Mask value of pixels that count neither in the loss nor in the metrics.",
        ge=0,
        le=65535,
        applies_when=SEGMENTATION,
        automl_disabled=True,
    )
    reduce_zero_label: bool = spec_field(
        True,
        "true: 0 in a mask means unlabeled and is ignored, 1 … N are the classes (ADE20K). "
        "false: the classes are 0 … N-1. No effect beside mask_values.",
        applies_when=SEGMENTATION,
        related=["dataset.segmentation.ignore_index", "dataset.segmentation.mask_values"],
        automl_disabled=True,
    )
    mask_values: Annotated[list[MaskValue], Field(min_length=2, max_length=65536)] | None = (
        spec_field(
            None,
            "The value of each class in the masks, in order: [0, 255] of black and white masks, "
            "where 0 is class 0 and 255 class 1. ignore_index, where it is not listed, counts as "
            "no class; any other value is refused. Null: values are the numbers of the classes.",
            applies_when=SEGMENTATION,
            related=["model.num_classes", "dataset.segmentation.reduce_zero_label"],
            automl_disabled=True,
        )
    )


class DatasetSpec(SpecModel):
    """Where images come from, batches and augmentation.

    A source is a folder, an archive (.tar, .tar.gz, .tgz, .tar.zst, .zip …), a URL of either
    (s3://…), a pattern of names (images/**/*.png, shard-{000..015}.tar), or a list of these.
    """

    train_data_sources: Sources = spec_field(
        None,
        "Training images. A classifier needs one folder for each class inside, a segmenter a "
        "mask for each image.",
        popular=True,
        affects_training=False,
    )
    val_data_sources: Sources = spec_field(
        None,
        "Validation images; evaluate reads these. Null: see val_fraction.",
        popular=True,
        affects_training=False,
        automl_disabled=True,
    )
    test_data_sources: Sources = spec_field(
        None,
        "Images for inference.",
        popular=True,
        affects_training=False,
        automl_disabled=True,
    )
    probe_train_data_sources: Sources = spec_field(
        None,
        "Labeled images that the kNN probe of pretraining takes as its bank.",
        applies_when=PRETRAIN,
        related=["dataset.probe_val_data_sources", "train.probe.interval"],
        affects_training=False,
        automl_disabled=True,
    )
    probe_val_data_sources: Sources = spec_field(
        None,
        "Labeled images that the kNN probe of pretraining is scored on.",
        applies_when=PRETRAIN,
        related=["dataset.probe_train_data_sources", "train.probe.interval"],
        affects_training=False,
        automl_disabled=True,
    )
    channels: Channels | None = spec_field(
        None,
        "Bands of a picture. Null: RGB, whatever a file holds of gray, palette or alpha; 1: gray; "
        "any other number must be that of the files.",
        unit="channels",
        automl_disabled=True,
        related=["dataset.augmentation.mean", "dataset.value_range"],
    )
    value_range: ValueRange = spec_field(
        "dtype",
        "The stored values that become 0 and 1 before normalization; values beyond are clipped. "
        "dtype: the range of the file's type (8 bits: 0 to 255, 16 bits: 0 to 65535; DICOM: its "
        "window). auto: the 0.1 and 99.9 percentiles of the training images, measured once and "
        "kept with the model. Or [low, high].",
        automl_disabled=True,
        related=["dataset.channels", "dataset.augmentation.mean"],
    )
    exif_orientation: bool = spec_field(
        True,
        "Turn a picture as its file says (EXIF or XMP), as viewers do.",
        automl_disabled=True,
    )
    classes: Annotated[list[NonEmpty], Field(min_length=1)] | None = spec_field(
        None,
        "Only the pictures of these classes, whose labels are in this order; null = all, sorted. "
        "Evaluation leaves out the other classes too, inference none.",
        applies_when=CLASSIFICATION,
        automl_disabled=True,
        related=["model.num_classes", "dataset.labels.train"],
    )
    train_fraction: Annotated[float, Field(gt=0.0, le=1.0)] | None = spec_field(
        None,
        "Share of the training images that is trained on, drawn by train.seed, of each class as "
        "large a part; null = all. val_fraction is a share of these.",
        automl_disabled=True,
        related=["dataset.val_fraction", "train.seed"],
    )
    val_fraction: Annotated[float, Field(gt=0.0, lt=1.0)] | None = spec_field(
        None,
        "Share of the training images held out for validation (seeded, by class) where there "
        "is no validation source; null = none. "
        "AutoML fills in 0.1 when it needs an accuracy.",
        applies_when={**FINETUNE, "dataset.val_data_sources": {"set": False}},
        related=["dataset.val_data_sources"],
        automl_disabled=True,
    )
    batch_size: Positive = spec_field(
        3,
        "Images in a batch, for each process. Effective batch = batch_size × processes × "
        "train.accum_grad_batches.",
        unit="images",
        popular=True,
        search=search(4, 512, log=True),
        related=["train.accum_grad_batches", "train.num_gpus", "train.optim.lr_scaling"],
    )
    balanced_sampling: bool = spec_field(
        False,
        "Each epoch shows as many images as the data have, of each class equally many: those of "
        "small classes several times, some of large ones not at all.",
        applies_when=_LABELS,
        related=["train.class_weights"],
    )
    num_workers_per_gpu: int = spec_field(
        2,
        "Loader processes for each training process; 0 = load in the process itself.",
        ge=0,
        unit="processes",
        affects_training=False,
        le=1024,
    )
    max_corrupt_fraction: float = spec_field(
        0.01,
        "Share of unreadable images that is tolerated (each is named and skipped); more fails "
        "the run.",
        ge=0.0,
        le=1.0,
        affects_training=False,
        automl_disabled=True,
    )
    augmentation: AugmentationSpec = spec_field(
        AugmentationSpec, "Hyperparameters of data augmentation."
    )
    labels: LabelsSpec = spec_field(
        LabelsSpec, "Tables that give pictures their classes, where their folders do not."
    )
    segmentation: SegmentationSpec = spec_field(
        SegmentationSpec, "Where the masks of the images are, and what their values mean."
    )
