"""What cannot be built: shapes a family lacks, sizes no machine has, names of no module, policies
that timm does not know.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator

from mae_skill.archs import ARCHS, Arch
from mae_skill.conditions import acts
from mae_skill.rules.base import Case, Rule
from mae_skill.rules.effect import conditional_fields
from mae_skill.rules.seen import segments

SHAPES = ("embed_dim", "depth", "num_heads", "mlp_ratio")
MOST_WEIGHTS = 5e10
"""In one stack of transformer blocks: 200 GB, before gradients and moments."""


def shape_overrides(case: Case) -> None:
    """Only a ViT takes another shape than its name says."""
    arch = ARCHS.get(str(case("model.arch")))
    if arch is None or arch.family == "vit" or not case.known("model.arch"):
        return
    for name in SHAPES:
        if case(f"model.{name}") is not None:
            case.error(
                f"model.{name}",
                f"only ViT architectures take another shape, and {arch.name} is none",
                "null",
                "leave the field out, or choose another model.arch",
            )


def dice(case: Case) -> None:
    """Dice compares areas: a classifier has none."""
    classifies = case("train.stage") == "finetune" and case("model.task") != "segmentation"
    if classifies and case("train.loss") == "dice":
        case.error(
            "train.loss",
            "the Dice loss is for segmentation alone",
            "cross_entropy or focal for a classifier",
            "set train.loss=cross_entropy",
        )


def cross_decoder(case: Case) -> None:
    """Only a ViT's encoder leaves one token for each visible patch."""
    arch = ARCHS.get(str(case("model.arch")))
    if arch is None or arch.family == "vit" or case("train.stage") != "pretrain":
        return
    if case("model.decoder_type") == "cross" and case.known("model.arch"):
        case.error(
            "model.decoder_type",
            f"only ViT architectures have a decoder of cross-attention, and {arch.name} is none",
            "self",
            "leave the field out, or choose another model.arch",
        )


def weights(case: Case) -> None:
    """Widths and depths, each possible, can together be more than any machine holds."""
    arch = ARCHS.get(str(case("model.arch")))
    if arch is None:
        return
    stacks = {}
    if arch.family == "vit":
        stacks["model.embed_dim"] = (
            case("model.embed_dim") or arch.dims[0],
            case("model.depth") or arch.depths[0],
            case("model.mlp_ratio") or arch.mlp_ratio,
        )
    if case("train.stage") == "pretrain":
        stacks["model.decoder_embed_dim"] = (
            case("model.decoder_embed_dim"),
            case("model.decoder_depth"),
            case("model.decoder_mlp_ratio"),
        )
    for key, (width, depth, ratio) in stacks.items():
        count = (4 + 2 * ratio) * width**2 * depth
        if count > MOST_WEIGHTS:
            case.error(
                key,
                f"{depth} blocks of width {width} have {count:.1e} weights",
                f"a model of at most {MOST_WEIGHTS:.0e}",
                "lower model.embed_dim or model.depth",
            )


def frozen(case: Case) -> None:
    """Every name in ``train.freeze`` is a module or a parameter of the model, and not all are."""
    arch, names = ARCHS.get(str(case("model.arch"))), case("train.freeze")
    if arch is None or not names:
        return
    known = set(_names(case, arch))
    open_ended = tuple(f"{head}." for head in _SEGMENTER) if _segments(case) else ()
    for name in names:
        plain = name.removeprefix("encoder.")
        if name in known or f"encoder.{name}" in known or name.startswith(open_ended or ("\0",)):
            continue
        near = difflib.get_close_matches(plain, [_bare(one) for one in known], n=3)
        top = sorted({_bare(one).split(".")[0] for one in known})
        case.error(
            "train.freeze",
            f"{arch.name} has no module {name[:80]!r}",
            "names of modules or parameters of the model",
            f"did you mean {', '.join(near)}?" if near else f"top level: {', '.join(top)}",
        )
        return

    left = {one for one in known if not any(holds(name, one) for name in names)}
    if not left - {"encoder"}:
        case.error(
            "train.freeze",
            "every parameter of the model would be frozen",
            "fewer modules",
            "leave at least the head out",
        )


def _bare(name: str) -> str:
    return name.removeprefix("encoder.")


def holds(frozen_name: str, name: str) -> bool:
    """Whether freezing ``frozen_name`` freezes ``name``; ``encoder`` spares the head inside it."""
    if frozen_name == "encoder":
        return name.startswith("encoder.") and not name.startswith("encoder.head")
    return any(
        name == full or name.startswith(f"{full}.")
        for full in (frozen_name, f"encoder.{frozen_name}")
    )


_BLOCK = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
_CROSS_BLOCK = ("norm1", "attn.q", "attn.kv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
_CONV_BLOCK = ("conv_dw", "norm", "mlp.fc1", "mlp.grn", "mlp.fc2")
_SEGMENTER = ("neck", "uper", "auxiliary")


def _names(case: Case, arch: Arch) -> Iterator[str]:
    """Modules and parameters of the model: those with weights, by the names of the code."""
    yield from ("encoder", *(f"encoder.{name}" for name in _encoder(case, arch)))
    if case("train.stage") == "pretrain":
        yield from _decoder(case, arch)
    elif _segments(case):
        yield from _SEGMENTER if case("model.segmentation.auxiliary_weight") else _SEGMENTER[:2]
    elif arch.family == "vit":
        yield from _with_weights(["encoder.head"])
        # The class token has the encoder's own norm, the average one of the head's.
        norm = "fc_norm" if case("model.global_pool") else "norm"
        yield from _with_weights([f"encoder.{norm}"])
    else:
        yield "encoder.head"
        yield from _with_weights(["encoder.head.norm", "encoder.head.fc"])


def _encoder(case: Case, arch: Arch) -> Iterator[str]:
    if arch.family == "convnextv2":
        yield from ("stem", "stages", *_with_weights(["stem.0", "stem.1"]))
        for stage, depth in enumerate(arch.depths):
            here = f"stages.{stage}"
            yield from (here, f"{here}.blocks")
            if stage:
                down = [f"{here}.downsample.{at}" for at in (0, 1)]
                yield from (f"{here}.downsample", *_with_weights(down))
            yield from _blocks(f"{here}.blocks", depth, _CONV_BLOCK)
        return

    yield from ("pos_embed", "patch_embed", *_with_weights(["patch_embed.proj"]))
    depth = arch.depth
    if arch.family == "vit":
        yield "cls_token"
        depth = case("model.depth") or depth
        if case("train.stage") == "pretrain":
            yield from _with_weights(["norm"])
    yield from ("blocks", *_blocks("blocks", depth, _BLOCK))
    if arch.family == "hiera":
        first = [sum(arch.depths[:stage]) for stage in (1, 2, 3)]
        yield from _with_weights([f"blocks.{at}.proj" for at in first])


def _decoder(case: Case, arch: Arch) -> Iterator[str]:
    depth = case("model.decoder_depth")
    yield "mask_token"
    if arch.family == "convnextv2":
        yield from ("decoder", *_with_weights(["proj", "pred"]))
        yield from _blocks("decoder", depth, _CONV_BLOCK)
        return
    yield from ("decoder_pos_embed", "decoder_blocks")
    yield from _with_weights(["decoder_norm", "decoder_pred"])
    if case("model.decoder_type") == "cross":
        yield from _blocks("decoder_blocks", depth, _CROSS_BLOCK)
        return
    yield from _with_weights(["decoder_embed"])
    yield from _blocks("decoder_blocks", depth, _BLOCK)
    if arch.family == "hiera":
        heads = [f"multi_scale_fusion_heads.{at}" for at in (0, 1)]
        yield from ("multi_scale_fusion_heads", *_with_weights(["encoder_norm", *heads]))


def _blocks(prefix: str, depth: int, parts: tuple[str, ...]) -> Iterator[str]:
    groups = {part.partition(".")[0] for part in parts}
    for at in range(depth):
        yield from (f"{prefix}.{at}", *(f"{prefix}.{at}.{group}" for group in groups))
        yield from _with_weights([f"{prefix}.{at}.{part}" for part in parts])


def _with_weights(modules: list[str]) -> Iterator[str]:
    for module in modules:
        yield from (module, f"{module}.weight", f"{module}.bias")


def _segments(case: Case) -> bool:
    return bool(case("train.stage") == "finetune" and case("model.task") == "segmentation")


AUTO_AUG = "dataset.augmentation.auto_aug"
_COUNT, _SHORT, _FLAG = r"[0-9]{1,3}", r"[0-9]{1,2}", r"[0-9]"
_REAL, _SHARE = r"[0-9]{1,3}(\.[0-9]+)?", r"0(\.[0-9]+)?|1(\.0+)?"
_RAND = {"m": _COUNT, "n": _COUNT, "mmax": _COUNT, "inc": _FLAG, "p": _SHARE, "mstd": _REAL}
_AUGMIX = {"m": _SHORT, "w": _SHORT, "d": _SHORT, "b": _FLAG, "a": _REAL, "mstd": _REAL}
_FIXED = {"mstd": _REAL}
_POLICIES = {
    "rand": _RAND,
    "augmix": _AUGMIX,
    **dict.fromkeys(("original", "originalr", "v0", "v0r", "3a"), _FIXED),
}
"""timm's policies, and what each section of one may be."""
_TRANSFORMS = ("tweights", "t3aw", "t3a")


def auto_augmentation(case: Case) -> None:
    """The policy is one that timm reads whole: it skips what it does not know."""
    text = case(AUTO_AUG)
    if not text or str(text).lower() == "none":
        return
    name, *sections = str(text).split("-")
    words = _POLICIES.get(name, {})
    wrong = [section for section in sections if not _is_section(section, words, name)]
    if name in _POLICIES and not wrong:
        return
    case.error(
        AUTO_AUG,
        f"no such policy: {wrong[0][:40]!r} of it is not known" if words else "no such policy",
        "rand-m9-mstd0.5-inc1 and the like, augmix-m3-w3, original, v0, originalr, v0r, 3a, "
        "or none",
        "leave it out, or take rand-m9-mstd0.5-inc1",
    )


def _is_section(section: str, words: dict[str, str], name: str) -> bool:
    match = re.fullmatch(r"([a-z]+)(.*)", section)
    if name == "rand" and section in _TRANSFORMS:
        return True
    if not match or match[1] not in words or not re.fullmatch(words[match[1]], match[2]):
        return False
    return match[1] not in ("n", "w", "d", "mmax", "a") or float(match[2]) > 0


MINIMUM = {
    **dict.fromkeys(("min_scale", "max_scale", "min_ratio", "max_ratio"), 1e-3),
    **dict.fromkeys(("mixup", "cutmix"), 1e-3),
}
"""Below these a crop has no pixel, and a beta distribution no number."""


def tiny(case: Case) -> None:
    """Strengths that are positive and yet none."""
    for name, least in MINIMUM.items():
        value = case(f"dataset.augmentation.{name}")
        if value is not None and 0 < value < least:
            case.error(
                f"dataset.augmentation.{name}",
                "too small to have a meaning",
                f"at least {least}",
                "leave it out, or set 0 to switch it off"
                if name in ("mixup", "cutmix")
                else f"leave it out, or set {least} or more",
            )


STRONG = {
    "model.drop_path_rate": (0.8, "the last blocks are skipped for nearly every image"),
    "model.segmentation.dropout": (0.8, "the head hardly sees what the backbone says"),
    "model.segmentation.auxiliary_weight": (
        10.0,
        "the loss of the head that answers counts for nothing beside it",
    ),
    "train.focal_gamma": (5.0, "all but the worst images count for nothing"),
    "dataset.augmentation.smoothing": (0.5, "the targets hardly tell the classes apart"),
    **dict.fromkeys(
        ("dataset.augmentation.mixup", "dataset.augmentation.cutmix"),
        (20.0, "every picture is mixed with another, half and half, and none is seen as it is"),
    ),
    "dataset.augmentation.color_jitter": (1.0, "pictures come out black, white or of one shade"),
    "dataset.augmentation.zoom": (1.0, "things come out less than half to twice as large"),
    "train.dice_weight": (100.0, "the loss of each pixel counts for nothing beside it"),
    "train.teacher.weight": (100.0, "the loss of the pixels counts for nothing beside it"),
}
"""Strengths above which little of what is to be learned is left."""

TOO_STRONG = {
    "model.drop_path_rate": 0.95,
    "model.segmentation.dropout": 0.95,
    "dataset.augmentation.smoothing": 0.95,
    "dataset.augmentation.color_jitter": 10.0,
}
"""Strengths above which nothing is left."""


def strong(case: Case) -> None:
    """Regularization that leaves something to learn."""
    for key, (most, what) in STRONG.items():
        value = case(key)
        conditions, _ = conditional_fields().get(key, ({}, None))
        if value is None or value <= most or acts(conditions, case.spec):
            continue
        text = f"{value:g} is far above what is usual: {what}"
        if key in TOO_STRONG and value > TOO_STRONG[key]:
            case.error(key, text, f"at most {most:g}", f"leave {key} out for its default")
        else:
            case.warn(key, text)


def frozen_decoder(case: Case) -> None:
    """What a pretrained encoder is read by learns with it."""
    arch, names = ARCHS.get(str(case("model.arch"))), case("train.freeze")
    if arch is None or not names or case("train.stage") != "pretrain":
        return
    if case("train.pretrained_model_path") or case("train.resume_training_checkpoint_path"):
        return
    blocks = ("decoder.", "decoder_blocks.")
    parts = [one for one in _decoder(case, arch) if one.startswith(blocks)]
    if parts and all(any(holds(name, one) for name in names) for one in parts):
        case.warn(
            "train.freeze",
            "the decoder stays at its random initial weights: the encoder learns to please these, "
            "and its features are of little use elsewhere",
        )


def idle_augmentation(case: Case) -> None:
    """Augmentation that somebody asked for can act."""
    mixes = [
        key
        for key in ("dataset.augmentation.mixup", "dataset.augmentation.cutmix")
        if case(key) and case.given(key)
    ]
    if mixes and case("train.stage") == "finetune" and not _segments(case):
        if case("dataset.batch_size") == 1:
            case.warn(mixes[0], "a batch of 1 holds no other picture to mix with: no effect")
        elif case("dataset.augmentation.mixup_prob") == 0:
            case.warn(mixes[0], "has no effect: dataset.augmentation.mixup_prob is 0")
    low, high = (case(f"dataset.augmentation.{name}") for name in ("min_ratio", "max_ratio"))
    if low is not None and high is not None and (low > SQUEEZED or high < 1 / SQUEEZED):
        key = f"dataset.augmentation.{'min_ratio' if low > SQUEEZED else 'max_ratio'}"
        text = (
            f"every crop is {low:g} to {high:g} times as wide as it is high and is squeezed into "
            "the input: no shape is seen as it is"
        )
        usual = "0.75 and 1.33 are usual"
        if low > FLATTENED or high < 1 / FLATTENED:
            case.error(key, text, "ratios around 1", usual)
        else:
            case.warn(key, f"{text}; {usual}")


SQUEEZED = 2.0
"""Ratio of width to height above which, or below whose inverse, every crop is distorted."""


FLATTENED = 10.0
"""The same, at which a crop is a line of its picture."""

MOST_CHANGES, LARGEST_MAGNITUDE = 8, 10
"""Changes of a picture by RandAugment, of which 2 are usual, and the largest step of its tables."""


def far_policy(case: Case) -> None:
    """RandAugment leaves something of a picture."""
    name, *sections = str(case(AUTO_AUG) or "").split("-")
    if name != "rand" or acts(conditional_fields().get(AUTO_AUG, ({}, None))[0], case.spec):
        return
    found = {key: value for one in sections for key, value in re.findall(r"^(n|m|mmax)(\d+)$", one)}
    count = int(found.get("n", 2))
    strength, most = int(found.get("m", 10)), int(found.get("mmax", LARGEST_MAGNITUDE))
    if count > MOST_CHANGES:
        case.warn(
            AUTO_AUG,
            f"{count} changes one after another leave little of a picture; 2 (n2) are usual",
        )
    if strength > most:
        case.warn(AUTO_AUG, f"m{strength} is above {most}, the largest step; 9 is usual")


def odd_decoder(case: Case) -> None:
    """A decoder is wide enough to paint a patch, and not deeper than what it decodes."""
    arch = ARCHS.get(str(case("model.arch")))
    if arch is None or case("train.stage") != "pretrain":
        return
    width, depth = case("model.decoder_embed_dim"), case("model.decoder_depth")
    blocks = case("model.depth") or sum(arch.depths)
    if width and width < NARROW:
        case.warn(
            "model.decoder_embed_dim",
            f"a decoder of width {width} can hardly paint a patch of {3 * arch.patch**2} values: "
            "512 is usual",
        )
    if depth and depth > max(blocks, PAPER_DEPTH):
        case.warn(
            "model.decoder_depth",
            f"the decoder has {depth} blocks, and the encoder, which is kept, {blocks}: what is "
            "learned may stay in the decoder; 1 to 8 are usual",
        )


NARROW, PAPER_DEPTH = 16, 8
"""A width of the decoder that holds little, and the depth that the papers use."""


def narrow_heads(case: Case) -> None:
    """A head of attention compares vectors of some length; a segmenter's head has some width."""
    arch = ARCHS.get(str(case("model.arch")))
    if arch is not None and arch.family == "vit":
        sides = [("", case("model.embed_dim") or arch.dims[0], case("model.num_heads"))]
        if case("train.stage") == "pretrain":
            decoder = case("model.decoder_embed_dim"), case("model.decoder_num_heads")
            sides.append(("decoder_", *decoder))
        for part, width, heads in sides:
            if width and heads and width % heads == 0 and width // heads < LEAST_OF_A_HEAD:
                case.warn(
                    f"model.{part}num_heads",
                    f"{heads} heads over a width of {width} compare {width // heads} "
                    f"value{'s' if width > heads else ''} each: 32 to 64 are usual",
                )

    width = case("model.segmentation.channels")
    if segments(case) and width and width < NARROW:
        case.warn(
            "model.segmentation.channels",
            f"a head of width {width} can hardly tell the classes of a pixel: 512 is usual, and "
            "64 where it has to be small",
        )


def crops_of_a_segmenter(case: Case) -> None:
    """A crop can meet the share that no class may go beyond."""
    key = "dataset.augmentation.segmentation.max_class_share"
    classes, share = case("model.num_classes"), case(key)
    if segments(case) and classes and classes > 1 and share and share <= 1 / classes:
        case.warn(
            key,
            f"of {classes} classes one always covers {1 / classes:.0%} or more of a crop: every "
            "crop is drawn ten times in vain; 0.75 is usual, and 1 draws each once",
        )


LEAST_OF_A_HEAD = 8
"""Values of a head of attention below which there is little to compare."""


def narrow_mlp(case: Case) -> None:
    """The hidden layer of an MLP has some width."""
    arch, ratio = ARCHS.get(str(case("model.arch"))), case("model.mlp_ratio")
    if arch is None or ratio is None:
        return
    width = case("model.embed_dim") or arch.dims[0]
    if int(width * ratio) < 1:
        case.error(
            "model.mlp_ratio",
            f"leaves no hidden unit of a width of {width}: the MLPs compute nothing",
            f"at least {1 / width:.2g}; 4 is usual",
            "set model.mlp_ratio=4",
        )


def frozen_encoder(case: Case) -> None:
    """The blocks of the backbone are what learns, unless they come with weights. A classifier on a
    random backbone is a baseline of its own, for who says that there are no weights."""
    arch, names = ARCHS.get(str(case("model.arch"))), case("train.freeze")
    if arch is None or not names or case("train.pretrained_model_path"):
        return
    if case("train.resume_training_checkpoint_path"):
        return
    blocks = [f"encoder.{name}" for name in _encoder(case, arch) if _IN_BLOCK.search(name)]
    if not all(any(holds(name, one) for name in names) for one in blocks):
        return
    pretrains = case("train.stage") == "pretrain"
    text = (
        f"{'pretraining' if pretrains else 'fine-tuning from scratch'} would leave all blocks of "
        "the encoder at their random initial weights"
    )
    if case.given("train.pretrained_model_path") and not pretrains:
        case.warn("train.freeze", f"{text}: a baseline of random features")
        return
    baseline = "train.pretrained_model_path=null says that a baseline of random features is meant"
    case.error(
        "train.freeze",
        text,
        "some blocks of the encoder left to learn, or train.pretrained_model_path",
        "take the blocks out of train.freeze" if pretrains else baseline,
    )


_IN_BLOCK = re.compile(r"(^|\.)blocks\.\d+\..*\.(weight|bias)$")


RULES = [
    Rule(tiny, ("train",)),
    Rule(strong, ("train",)),
    Rule(frozen_encoder, ("train",)),
    Rule(frozen_decoder, ("train",)),
    Rule(idle_augmentation, ("train",)),
    Rule(far_policy, ("train",)),
    Rule(odd_decoder, ("train",)),
    Rule(narrow_mlp, ("train",)),
    Rule(narrow_heads, ("train",)),
    Rule(crops_of_a_segmenter, ("train",)),
    Rule(shape_overrides),
    Rule(dice, ("train",)),
    Rule(cross_decoder, ("train",)),
    Rule(weights, ("train",)),
    Rule(frozen, ("train",)),
    Rule(auto_augmentation, ("train",)),
]
