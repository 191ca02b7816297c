"""``model``: which architecture, and the shape of its decoder and head."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import Field

from mae_skill.archs import arch_names
from mae_skill.spec.fields import (
    CLASSIFICATION,
    FINETUNE,
    PRETRAIN,
    SEGMENTATION,
    SpecModel,
    search,
    spec_field,
)

ArchName = Literal[
    "convnextv2_atto",
    "convnextv2_femto",
    "convnextv2_pico",
    "convnextv2_nano",
    "convnextv2_tiny",
    "convnextv2_base",
    "convnextv2_large",
    "convnextv2_huge",
    "vit_tiny_patch16",
    "vit_small_patch16",
    "vit_base_patch16",
    "vit_large_patch16",
    "vit_huge_patch14",
    "hiera_tiny_224",
    "hiera_small_224",
    "hiera_base_224",
    "hiera_base_plus_224",
    "hiera_large_224",
    "hiera_huge_224",
]

# Beyond these no model fits a machine; a slip of the keyboard does.
Width = Annotated[int, Field(ge=1, le=32_768)]
Heads = Annotated[int, Field(ge=1, le=1024)]
Depth = Annotated[int, Field(ge=1, le=256)]

_VIT = {"model.arch": arch_names("vit")}
_AUXILIARY = {**SEGMENTATION, "model.segmentation.auxiliary_weight": {"gt": 0}}
_DECODER_WITH_ATTENTION = {**PRETRAIN, "model.arch": arch_names("vit") + arch_names("hiera")}


class SegmentationHeadSpec(SpecModel):
    """The UperNet head of a segmenter (arXiv:1807.10221): pyramid pooling, feature pyramid, fusion;
    and an auxiliary FCN head.
    """

    channels: Width = spec_field(
        512,
        "Width of the head.",
        unit="channels",
        applies_when=SEGMENTATION,
        related=["model.segmentation.auxiliary_channels"],
    )
    auxiliary_channels: Width = spec_field(
        256,
        "Width of the auxiliary head on the third level.",
        unit="channels",
        applies_when=_AUXILIARY,
    )
    auxiliary_weight: float = spec_field(
        0.4,
        "Weight of the auxiliary head's loss; 0 = no auxiliary head.",
        ge=0.0,
        applies_when=SEGMENTATION,
        le=1e4,
    )
    dropout: float = spec_field(
        0.1,
        "Dropout before the classifier of either head.",
        ge=0.0,
        lt=1.0,
        applies_when=SEGMENTATION,
    )
    pool_scales: list[Annotated[int, Field(ge=1, le=64)]] = spec_field(
        [1, 2, 3, 6],
        "Grids to which pyramid pooling averages the last level.",
        min_length=1,
        applies_when=SEGMENTATION,
    )


class ModelSpec(SpecModel):
    """Configurable parameters to construct the model."""

    arch: ArchName = spec_field(
        "convnextv2_base",
        "The architecture of the backbone. Sizes and defaults of all of them: "
        "references/architectures.md.",
        popular=True,
        # As timm names them at 224 pixels; here dataset.augmentation.input_size says the size.
        option_aliases={
            f"{name}_224": name for name in get_args(ArchName) if name.startswith("vit_")
        },
        related=["dataset.augmentation.input_size", "train.mask_ratio"],
    )
    task: Literal["classification", "segmentation"] = spec_field(
        "classification",
        "What fine-tuning trains: a classifier of images, or of their pixels (UperNet). "
        "It applies only to fine-tuning.",
        popular=True,
        automl_disabled=True,
        related=["train.stage", "model.num_classes"],
    )
    num_classes: int = spec_field(
        1000,
        "Number of classes. Must equal the number of classes in the training data; in "
        "segmentation pixels without a label are no class.",
        ge=1,
        applies_when=FINETUNE,
        popular=True,
        automl_disabled=True,
        le=1_000_000,
    )
    multi_label: bool = spec_field(
        False,
        "A picture may be of several classes, or of none: a sigmoid and binary cross-entropy for "
        "each class, judged by mAP. The labels come from dataset.labels.",
        applies_when={**FINETUNE, **CLASSIFICATION},
        automl_disabled=True,
        related=["dataset.labels.train", "dataset.labels.columns"],
    )
    drop_path_rate: float = spec_field(
        0.1,
        "Stochastic depth: probability of dropping the last block's residual branch; rises "
        "linearly from 0 over the blocks.",
        ge=0.0,
        lt=1.0,
        applies_when=FINETUNE,
        search=search(0.0, 0.4),
        automl_default=True,
        popular=True,
    )
    global_pool: bool = spec_field(
        True,
        "Average the tokens before the head (ViT: with fc_norm). False: the class token for "
        "ViT; the other families always average.",
        applies_when={**FINETUNE, **CLASSIFICATION, "model.arch": arch_names("vit")},
        automl_enabled=True,
    )
    decoder_depth: int = spec_field(
        1,
        "Blocks of the decoder (the papers: 8 for ViT and Hiera, 1 for ConvNeXt V2).",
        ge=1,
        applies_when=PRETRAIN,
        search=search(1, 8, step=1),
        popular=True,
        related=["model.decoder_embed_dim"],
        le=256,
    )
    decoder_embed_dim: int = spec_field(
        512,
        "Width of the decoder. With attention it must divide by the decoder's heads and by 4.",
        ge=1,
        applies_when=PRETRAIN,
        search=search(128, 512, step=128),
        math_cond="/ 64",
        related=["model.decoder_num_heads", "model.decoder_depth"],
        le=32_768,
    )
    decoder_num_heads: Heads | None = spec_field(
        None,
        "Attention heads of the decoder; null = 16, or the largest count up to 16 that "
        "divides the decoder's width.",
        applies_when=_DECODER_WITH_ATTENTION,
        related=["model.decoder_embed_dim"],
    )
    decoder_mlp_ratio: float = spec_field(
        4.0,
        "Hidden width of the MLP of a decoder block, over its width.",
        gt=0.0,
        applies_when=PRETRAIN,
        le=64.0,
    )
    decoder_type: Literal["self", "cross"] = spec_field(
        "self",
        "self: the papers' decoder, in which all positions attend to each other. cross: hidden "
        "patches attend to the visible ones alone (CrossMAE, arXiv 2401.14391), ViT only.",
        applies_when=PRETRAIN,
        related=["model.decoder_prediction_share", "model.decoder_depth"],
    )
    decoder_prediction_share: float = spec_field(
        1.0,
        "Share of the hidden patches that are predicted in a training step; the paper's lightest "
        "setting is a third. Validation and pictures predict all.",
        gt=0.0,
        le=1.0,
        applies_when={**PRETRAIN, "model.arch": arch_names("vit"), "model.decoder_type": "cross"},
        related=["model.decoder_type", "train.mask_ratio"],
    )
    position_temperature: float = spec_field(
        10_000.0,
        "Base of the wavelengths of a ViT's sine-cosine position tables in pretraining: from 2π to "
        "2π × this, in patches. The papers' 10000 is for 14 patches a side; on a smaller grid most "
        "of its waves are flat. With any other base the tables are less their mean over the "
        "places.",
        ge=2.0,
        le=1e6,
        applies_when={**PRETRAIN, **_VIT},
        related=["model.patch_size", "dataset.augmentation.input_size"],
    )
    patch_size: Annotated[int, Field(ge=1, le=32)] | None = spec_field(
        None,
        "Side of one input token; null = the architecture's. ViT: 2 to 32. ConvNeXt V2 and Hiera: "
        "the stride of the stem, 1, 2 or 4; their mask units are 8 tokens wide. Small pictures "
        "need small patches: some 7 to 14 tokens per side.",
        unit="pixels",
        automl_disabled=True,
        related=["model.arch", "dataset.augmentation.input_size"],
    )
    embed_dim: Width | None = spec_field(
        None,
        "Overrides the width of a ViT; null = the architecture's. Must divide by the heads "
        "and by 4.",
        applies_when=_VIT,
        automl_disabled=True,
        related=["model.num_heads"],
    )
    depth: Depth | None = spec_field(
        None,
        "Overrides the number of blocks of a ViT; null = the architecture's.",
        applies_when=_VIT,
        automl_disabled=True,
    )
    num_heads: Heads | None = spec_field(
        None,
        "Overrides the attention heads of a ViT; null = the architecture's.",
        applies_when=_VIT,
        automl_disabled=True,
        related=["model.embed_dim"],
    )
    mlp_ratio: Annotated[float, Field(gt=0.0, le=64.0)] | None = spec_field(
        None,
        "Overrides the hidden width of a ViT's MLPs over its width; null = the architecture's.",
        applies_when=_VIT,
        automl_disabled=True,
    )
    init: Literal["truncated", "xavier"] = spec_field(
        "truncated",
        "First weights of a ViT or a ConvNeXt V2 that is fine-tuned from scratch: truncated = "
        "normal, deviation 0.02; xavier = by the number of values that a layer sums, faster in "
        "short runs on few images. A ViT then has Xavier-uniform layers and a sine-cosine position "
        "table, as MAE pretraining always starts (arXiv:2111.06377); a ConvNeXt V2 Xavier-uniform "
        "linear layers and convolutions of deviation 1/√n.",
        applies_when={**FINETUNE, "model.arch": arch_names("vit") + arch_names("convnextv2")},
        related=["train.pretrained_model_path"],
    )
    segmentation: SegmentationHeadSpec = spec_field(
        SegmentationHeadSpec, "The UperNet head of a segmenter."
    )
