"""Models and files that an action works on or writes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from mae_skill.archs import arch_of, hw, per_channel
from mae_skill.classes import by_position, class_names
from mae_skill.errors import CheckpointError, DataError, MaeError, NotFoundError
from mae_skill.origin import OriginKind
from mae_skill.rules.base import Case, Notice, Rule
from mae_skill.rules.model import holds
from mae_skill.weights import header
from mae_skill.weights.config import (
    classes_said,
    misread,
    own_description,
    own_settings,
    preparation,
)
from mae_skill.weights.fit import Fit, Target, fit, lack_of
from mae_skill.weights.hand_on import FOLDERS, cannot_prepare, why_not
from mae_skill.weights.parameters import target_of
from mae_skill.weights.resumed import REFINE
from mae_skill.weights.teacher import FIELD as TEACHER
from mae_skill.weights.teacher import teacher_of

MODEL = {
    "evaluate": "evaluate.checkpoint",
    "inference": "inference.checkpoint",
    "export": "export.checkpoint",
    "gen_trt_engine": "gen_trt_engine.onnx_file",
}
"""The field of an action's model."""

PRETRAINED = "train.pretrained_model_path"
TAKES_WEIGHTS = {
    "train": PRETRAINED,
    **{action: MODEL[action] for action in ("evaluate", "inference", "export")},
}
"""The field of an action that takes weights of others."""

FROM_URLS = (PRETRAINED, TEACHER)
"""The fields whose file may be at a URL, or on the model hub."""

RUNS_ENGINES = ("evaluate", "inference")
WRITTEN = {
    "export": ("export.onnx_file",),
    "gen_trt_engine": ("gen_trt_engine.trt_engine", "gen_trt_engine.timing_cache"),
}
"""The fields of an action that name a file it writes."""

_VARIABLE = re.compile(r"\$[A-Za-z_]\w*(?:/|$)|%\w+%")


def model(case: Case) -> None:
    """An action other than training works on one model."""
    key, engine = MODEL[case.action], f"{case.action}.trt_engine"
    runs_engine = case.action in RUNS_ENGINES and case(engine)
    if not case(key) and not runs_engine:
        case.error(key, "no model given", "a file", f"set {key}, or pass --parent JOB")
    elif case(key) and runs_engine:
        case.error(
            engine,
            f"{key} is given too",
            "one of the two",
            f"set one of {engine} and {key} to null",
        )
        case.errors[-1].explains = (key,)


def onnx_name(case: Case) -> None:
    """An ONNX file is recognized by its name."""
    path = case("export.onnx_file")
    if path and case("export.format") == "onnx" and not str(path).endswith(".onnx"):
        case.error(
            "export.onnx_file",
            "must end in .onnx",
            "a path that ends in .onnx",
            "write the path of the file with its suffix: results/model.onnx",
        )


def format_holds_it(case: Case) -> None:
    """The format of an export can hold the model; reduced precision is of ONNX graphs alone."""
    chosen = str(case("export.format"))
    if chosen not in ("onnx", "triton") and case("export.data_type", "fp32") != "fp32":
        case.error(
            "export.data_type",
            "reduced precision is written into ONNX graphs only",
            "fp32",
            "set export.format=onnx",
        )
    size = case("dataset.augmentation.input_size")
    if not case.known("model.arch") or arch_of(case.spec) is None or size is None:
        return  # the model is known when its file is opened
    channels = case("dataset.channels") or 3
    if unprepared := cannot_prepare(chosen, channels, case("dataset.value_range")):
        case.warn("export.format", unprepared)
    height, width = hw(size)
    model = {
        **(case("model") or {}),
        "in_chans": channels,
        "input_size": [
            case("export.input_height") or height,
            case("export.input_width") or width,
        ],
    }
    if case("train.stage") == "pretrain":
        model["mask_ratio"] = case("train.mask_ratio")
    refusal = why_not(chosen, model)
    if refusal is not None:
        case.error(
            "export.format",
            f"{chosen} cannot hold this model: {refusal.reason} ({refusal.field})",
            "a format that holds it",
            refusal.hint,
        )


def pushed(case: Case) -> None:
    """A folder goes to the hub under ORG/NAME, with a token from the environment."""
    name = case("export.push_to_hub")
    if not name:
        return
    key = "export.push_to_hub"
    if case("export.format") not in FOLDERS:
        case.error(
            key,
            "only a folder goes to the hub",
            f"export.format={' or '.join(FOLDERS)}",
            f"set export.format={FOLDERS[0]}",
        )
    elif not re.fullmatch(r"[\w][\w.-]*/[\w][\w.-]*", str(name), re.ASCII):
        case.error(
            key,
            "not the name of a model on the hub",
            "ORG/NAME",
            "write it as the hub does: your-name/your-model",
        )
    elif case.facts.variables is not None and "HF_TOKEN" not in case.facts.variables:
        case.error(key, "the hub wants a token", "HF_TOKEN in the environment", "export HF_TOKEN")


def segmenter_answers(case: Case) -> None:
    """A segmenter's inference writes label maps and nothing else."""
    if case("train.stage") != "finetune" or case("model.task") != "segmentation":
        return
    if not case.known("model.task"):
        return
    for key, value in (("features", [None, "none"]), ("neighbors", [0])):
        if case(f"inference.{key}") not in value:
            case.error(
                f"inference.{key}",
                "a segmenter's inference gives no embeddings",
                str(value[-1]),
                "mae_runners.load_model(...).embed gives those of its encoder",
            )


def named_files(case: Case) -> None:
    """Files that somebody named for this run are here, where the run is; a URL of one is read for
    pretrained weights and a teacher alone."""
    for key in _read(case):
        path = case(key)
        if not isinstance(path, str) or case.origin(key) not in OriginKind.written():
            continue
        if _is_remote(path) and key not in FROM_URLS:
            case.error(
                key,
                "a URL is not read here",
                "a path of the machine that runs the job",
                "fetch the file first, or name the job that made it: --parent JOB",
            )
        elif (
            not _is_remote(path)
            and case.facts.must_be_here(path)
            and not Path(path).expanduser().exists()
        ):
            case.error(
                key,
                "there is no such file or folder",
                "a path that exists" + (", or a URL" if key in FROM_URLS else ""),
                "check the path: a relative one begins where the command runs",
                kind=NotFoundError,
            )


def written_places(case: Case) -> None:
    """What an action writes goes to a path: a URL, or a variable that no shell filled in, would
    become a folder of that name in the working directory."""
    for key in ("results_dir", f"{case.action}.results_dir", *WRITTEN.get(case.action, ())):
        path = case(key)
        if not isinstance(path, str) or case.origin(key) not in OriginKind.written():
            continue
        if "://" in path:
            case.error(
                key,
                "nothing is written to a URL here",
                "a path of the machine that runs the action",
                f"a job brings its results there: mae run {case.action} --results-root URL",
            )
        elif _VARIABLE.match(path):
            case.error(
                key,
                "a variable of the environment is not filled in here",
                "a path",
                f'write the value, or let a shell fill it in: {key}="$NAME/…"',
            )


def frozen_head(case: Case, target: Target, found: Fit | None) -> None:
    """A head that is frozen has values that mean something: those of the weights."""
    rows, names = target.class_rows(), case("train.freeze") or ()
    if not rows or any(error.field == "train.freeze" for error in case.errors):
        return
    head = rows[0]
    if not any(holds(name, head) for name in names):
        return
    text = "the head would stay at its random initial weights: it never learns what to answer"
    if found is not None and head not in found.fresh:
        if target.classes is None or len(found.rows.get(head, ())) >= target.shapes[head][0]:
            return
        text = f"a part of the head would stay at random initial weights: {found.head}"
    case.error(
        "train.freeze",
        text,
        "a head that learns, or weights with a head for these classes",
        "take the head out of train.freeze; train.freeze=[encoder] trains the head alone",
    )


def frozen_parts(case: Case, target: Target, found: Fit | None) -> None:
    """What a segmenter has between its encoder and its classes is frozen with values of weights:
    at random ones it only mixes up what the head is to learn from."""
    names = [str(name) for name in case("train.freeze") or ()]
    said = any(error.field == "train.freeze" for error in case.errors)
    if target.kind != "segmenter" or case.action != "train" or said:
        return
    random = target.shapes if found is None else found.fresh
    stays = [
        name
        for name in names
        if any(
            holds(name, one) and not target.is_backbone(one) and one not in target.class_rows()
            for one in random
        )
    ]
    if stays:
        case.warn(
            "train.freeze",
            f"{', '.join(stays)} would stay at random initial weights, and what the head learns "
            "from goes through them: freeze parts that weights fill, such as encoder",
        )


def weights(case: Case) -> None:
    """Weights that somebody named are those of the spec's model: told from what is in the file
    without its values, where it is here."""
    key = PRETRAINED if case.action == "train" else MODEL[case.action]
    path = case(key)
    if case.action == "train" and _goes_on(case):
        return
    if not isinstance(path, str):
        with suppress(KeyError, TypeError, ValueError, ZeroDivisionError):  # said by other rules
            target = target_of(case.spec)
            frozen_head(case, target, None)
            frozen_parts(case, target, None)
        return
    if not case.facts.local_files or case.origin(key) in OriginKind.unset():
        return
    file = Path(path).expanduser()
    if "://" in path or not file.exists():  # named by a URL, or to be fetched from one
        if "://" in path or case.origin(key) is OriginKind.INFERRED:
            note = "not looked at: it is remote; the job looks at it before anything trains"
            case.warnings.append(Notice(key, note, note=True))
        return
    if case.action != "train" and _is_artifact(file):
        return
    try:
        contents = _look(case, file)
        if contents is None or (case.action != "train" and own_description(contents)):
            return
        if case.action != "train" and _misread(case, file):
            return
        left_open = case.action != "train" and case.origin("train.stage") in OriginKind.unset()
        answers = classes_said(contents) if left_open else None
        target = target_of(case.spec, by_name=case.action == "train")
        target = replace(target, classes=_class_names(case, target))
        found = fit(contents, target, file.name, key)
    except (OSError, KeyError, TypeError, ValueError, ZeroDivisionError):
        return  # other rules say what is wrong with the spec
    except MaeError as error:
        error.field = error.field or key
        case.errors.append(error)
        return
    classifier = f"train.stage=finetune model.num_classes={answers}" if answers else ""
    if wrong := _refused(case, file, found, contents, answers):
        case.errors.append(wrong)
        return
    case.warnings.append(Notice(key, found.summary(), note=True))
    if classifier and case("train.stage") == "pretrain":
        case.warn(
            key,
            f"{file.name} says a classifier of {answers} classes, which is set aside: "
            f"train.stage is pretrain, which nobody set; {classifier} takes it whole",
        )
    frozen_head(case, target, found)
    frozen_parts(case, target, found)
    if case.action == "evaluate" and target.kind == "classifier" and not found.classes:
        _outputs_without_names(case, file, key)
    own = own_description(contents)
    if own is None:
        _other_preparation(case, file)
        _size_that_nobody_set(case, file, found)
    else:
        _without_masks(case, own, file)
        _other_pictures(case, own, file)
    if found.warning:
        case.warn(key, found.warning)


def _refused(
    case: Case, file: Path, found: Fit, contents: Mapping[str, Any], answers: int | None
) -> MaeError | None:
    """Why these weights cannot be taken, with what would have them; None where they can."""
    key = PRETRAINED if case.action == "train" else MODEL[case.action]
    model = f"{case('train.stage')} {case('model.arch')}"
    lack = lack_of(found, file.name, key, model) if case.action != "train" else None
    wrong = found.refusal or lack
    if wrong is None:
        return None
    if answers and case("train.stage") == "pretrain":
        classifier = f"train.stage=finetune model.num_classes={answers}"
        wrong.hint = f"its config.json says a classifier of {answers} classes: set {classifier}"
    wrong.hint = _own_shape(case, contents) or wrong.hint
    return wrong


def _outputs_without_names(case: Case, file: Path, key: str) -> None:
    """Outputs of a model that names none are taken for the folders in their order, if there are as
    many."""
    judged = case.facts.data.get("dataset.val_data_sources") or {}
    folders = list(judged.get("class_counts") or ())
    outputs = case("model.num_classes")
    if folders and len(folders) != outputs:
        case.error(
            "dataset.val_data_sources",
            f"has {len(folders)} classes, and {file.name} has {outputs} outputs and names none "
            "of them: nobody can tell which output is which class",
            f"images of {outputs} classes, or the names of all outputs",
            f"dataset.classes=[…] names the {outputs}, in the order of the outputs",
            kind=DataError,
        )
    elif folders and (said := by_position(folders)):
        case.warn(key, said)


EXPECTED = {
    "input_size": "[channels, height, width]",
    "mean": "a number for each channel",
    "std": "a number for each channel",
    "crop_pct": "a share above 0, at most 1",
    "interpolation": "bilinear, bicubic or lanczos",
    "resample": "1 (lanczos), 2 (bilinear) or 3 (bicubic)",
    "label_names": "a name for each of its num_classes outputs, each once",
}


def _misread(case: Case, file: Path) -> bool:
    """Refuse what the folder of somebody else's model says, cannot be taken, and nobody says
    otherwise: the default in its place would be another preparation. Whether it was refused."""
    key, before = MODEL[case.action], len(case.errors)
    for field, (name, value, source) in misread(file).items():
        if field and not case.given(field):
            case.error(
                field,
                f"{source} of {file.name} has {name}={value!r}, which cannot be taken",
                EXPECTED[name],
                f"correct the file, or set {field}",
                kind=CheckpointError,
            )
        elif not field:
            case.error(
                key,
                f"{source} of {file.name} is no JSON object: nothing that it says is known",
                "the description of the model, as timm or transformers writes it",
                "correct the file",
                kind=CheckpointError,
            )
    return len(case.errors) > before


def _other_preparation(case: Case, file: Path) -> None:
    """Pictures that are prepared otherwise than the folder of somebody else's weights says."""
    said = preparation(file)
    channels = case("dataset.channels") or 3
    for word in ("mean", "std"):
        field = f"dataset.augmentation.{word}"
        theirs, source = said.get(word, ((), ""))
        if len(theirs) not in (3, channels):
            continue  # of a stem that is adapted to other channels
        if per_channel(case(field) or [0.0], channels) != per_channel(theirs, channels):
            case.warn(
                field,
                f"{case(field)} here; the weights were trained with {theirs} "
                f"({source} of {file.name})",
            )
    if case.action == "train":  # trained on, they may see pictures of another size
        return
    for word in ("input_size", "center_crop", "eval_interpolation"):
        field = f"dataset.augmentation.{word}"
        theirs, source = said.get(word, (None, ""))
        ours = case(field)
        if theirs is None or ours is None or case("model.task") == "segmentation":
            continue
        if word == "input_size":
            same = list(hw(ours)) == theirs
        else:
            same = ours == theirs if isinstance(theirs, str) else abs(ours - theirs) < 1e-3
        if not same:
            case.warn(
                field,
                f"{ours} here; {source} of {file.name} prepares pictures with {theirs}: the "
                "answers are others; leave the field out for theirs",
            )
    if "pads" in said:
        case.warn(
            MODEL[case.action],
            f"{said['pads'][1]} of {file.name} pads pictures that are not square, which is not "
            "offered: their center is seen here; save them square for the same answers",
        )
    if "squeezes" in said:
        case.warn(
            MODEL[case.action],
            f"{said['squeezes'][1]} of {file.name} squeezes whole pictures into their size, which "
            "is not offered: of pictures that are not square the center is seen here; save them "
            "square for the same answers",
        )

    if "keeps" in said:
        case.warn(
            MODEL[case.action],
            f"{said['keeps'][1]} of {file.name} does not resize pictures (do_resize=false): the "
            "model was given them in the size that they had; here each is resized and its center "
            "cut out, so save them in the model's size for the same answers",
        )
    if "floors" in said:
        text = (
            f"the processor of {said['floors'][1]} rounds the place of a cut down, where a half is "
            "rounded to even here, as timm and torchvision do: of a picture whose resized side is "
            "3, 7, 11 … pixels longer than the cut it is one pixel off"
        )
        case.warnings.append(Notice(MODEL[case.action], text, note=True))


def _size_that_nobody_set(case: Case, file: Path, found: Fit) -> None:
    """Positions that are resized, in an answer, to a size that is a mere default."""
    field = "dataset.augmentation.input_size"
    arch = arch_of(case.spec)
    set_by_nobody = case.origin(field) in OriginKind.unset()
    if case.action == "train" or not found.resized or arch is None or not set_by_nobody:
        return
    rows, columns = next(iter(found.resized.values())).old
    size = [rows * arch.patch, columns * arch.patch]
    case.warn(
        field,
        f"{case(field)} here, which nobody set; {file.name} has positions of {rows} × {columns} "
        f"patches: pictures of {size[0]} × {size[1]} pixels. At another size the answers are "
        f"others: set {field}={size[0] if rows == columns else size}",
    )


def _without_masks(case: Case, own: Mapping[str, Any], file: Path) -> None:
    """A segmenter is asked for where the weights are a classifier's and the images have no masks:
    more likely the task is wrong than the data."""
    masks = "dataset.segmentation"
    classifies = own.get("stage") == "finetune" and own.get("task") != "segmentation"
    lacks = any(field.startswith(f"{masks}.") for field in case.facts.refused)
    if case.action != "train" or case("model.task") != "segmentation":
        return
    if classifies and lacks and case.given("model.task"):
        case.error(
            "model.task",
            f"{file.name} is a classifier, and no masks belong to the training images",
            "classification, or images with masks",
            f"leave model.task out; or name the masks in {masks}.train_mask_sources (and "
            "val_mask_sources) to train a segmenter from the encoder of the classifier",
        )
        case.errors[-1].explains = (masks,)


def _other_pictures(case: Case, own: Mapping[str, Any], file: Path) -> None:
    """Pictures that are brought into numbers otherwise than those of the training whose weights
    these are."""
    words = {
        "mean": "dataset.augmentation.mean",
        "std": "dataset.augmentation.std",
        "value_range": "dataset.value_range",
        "exif_orientation": "dataset.exif_orientation",
    }
    for word, field in words.items():
        if word not in own:
            continue
        theirs, ours = own[word], case(field)
        if word == "value_range":
            theirs = theirs or "dtype"
            same = ours == theirs
            if ours == "auto" and not same:
                ours = f"{ours}, which measures these pictures,"
        elif word == "exif_orientation":
            same = ours == theirs
        else:
            same = not ours or per_channel(ours, len(theirs)) == list(theirs)
        if not same:
            case.warn(field, f"{ours} here; {file.name} was trained with {theirs}")


def _look(case: Case, file: Path) -> Mapping[str, Any] | None:
    """What a file of weights holds, as `header.look` says; opened with the run's key."""
    has_key = case("encryption_key") or "MAE_ENCRYPTION_KEY" in (case.facts.variables or ())
    return header.look(file, key=bool(has_key))


def _own_shape(case: Case, contents: Mapping[str, Any]) -> str | None:
    """The settings of this project's own weights that the spec has otherwise."""
    others = [
        f"{key}={'null' if value is None else value}"
        for key, value in own_settings(contents).items()
        if key.startswith("model.") and case(key) != value
    ]
    if not others:
        return None
    return f"the weights' own are {' '.join(others)}; --recipe auto and --parent JOB take them"


def teacher(case: Case) -> None:
    """A teacher is a ViT with the patch, the channels and the grid of a ViT that learns from it;
    told from its file without its values, where it is here."""
    path = case(TEACHER)
    if not isinstance(path, str) or case("train.stage") != "pretrain":
        return
    arch = arch_of(case.spec)
    if arch is None:
        return
    if arch.family != "vit":
        case.error(
            TEACHER,
            f"only a ViT learns from a teacher, and {arch.name} is none",
            "null",
            "leave the field out, or choose another model.arch",
        )
        return
    file = Path(path).expanduser()
    if _is_remote(path) or not case.facts.local_files or not file.exists():
        if _is_remote(path):
            note = "not looked at: it is remote; the job looks at it before anything trains"
            case.warnings.append(Notice(TEACHER, note, note=True))
        return
    try:
        contents = _look(case, file)
        if contents is None:
            return
        found = teacher_of(contents, file.name, case.spec)
    except (OSError, KeyError, TypeError, ValueError, ZeroDivisionError):
        return  # other rules say what is wrong with the spec
    except MaeError as error:
        error.field = error.field or TEACHER
        case.errors.append(error)
        return
    added = "; its passes and its memory come on top of the estimates"
    case.warnings.append(Notice(TEACHER, found.summary + added, note=True))


def refined(case: Case) -> None:
    """What is refined is an encoder that has learned, by two views of a picture that differ."""
    blocks, arch = case(REFINE), arch_of(case.spec)
    if not blocks or case("train.stage") != "pretrain" or arch is None:
        return
    depth = (case("model.depth") if arch.family == "vit" else None) or arch.depth
    if not case(PRETRAINED) and not _goes_on(case):
        case.error(
            REFINE,
            "there is no trained encoder to refine",
            f"0, or trained weights in {PRETRAINED}",
            f"pass --parent JOB of a pretraining, or set {PRETRAINED}",
        )
    elif blocks > depth:
        case.error(
            REFINE,
            "the encoder has fewer blocks",
            f"1 to {depth} for {arch.name}",
            f"set {REFINE}={max(1, depth // 2)}, half of them",
        )
    if case(TEACHER):
        case.error(
            TEACHER,
            "a run that refines learns from no teacher",
            f"null, or {REFINE}=0",
            f"leave one of {TEACHER} and {REFINE} out",
        )
    near, held = case("train.refine.neighbors"), case("train.refine.queue_size")
    if near and held and near > held:
        case.error(
            "train.refine.neighbors",
            "a queue cannot hold so many neighbors",
            f"at most {held} (train.refine.queue_size)",
            "lower it, or raise train.refine.queue_size",
        )
    if case("train.optim.monitor_name") == "val_loss":
        case.error(
            "train.optim.monitor_name",
            f"a run that refines ({REFINE}) has no validation loss",
            "train_loss",
            "set train.optim.monitor_name=train_loss; train.probe.interval judges its features",
        )
    if case("dataset.batch_size") == 1 and (case.facts.processes or 1) * case.facts.nodes == 1:
        case.error(
            "dataset.batch_size",
            "a picture alone in its batch is told from no other",
            "2 or more; 64 is usual at the least",
            "raise dataset.batch_size; train.accum_grad_batches does not make up for it",
        )
    if not _views_differ(case):
        case.warn(
            REFINE,
            "both views of a picture are the same: nothing is learned by telling them from others; "
            "set dataset.augmentation.min_scale below 1, or rotation, shift and the like",
            serious=True,
        )
    for key in ("train.mask_ratio", "train.norm_pix_loss"):
        if case.given(key):
            case.warn(key, f"has no effect: with {REFINE} nothing is masked or reconstructed")


def _views_differ(case: Case) -> bool:
    """Whether two draws of the augmentation give two pictures."""
    changes = ("rotation", "shear", "zoom", "shift", "color_jitter")
    named = {name: case(f"dataset.augmentation.{name}") for name in (*changes, "hflip", "vflip")}
    crop = [case(f"dataset.augmentation.{end}_scale") for end in ("min", "max")]
    if None in crop or min(crop) < 1 or any(named[name] for name in changes):
        return True
    return any(0 < (named[name] or 0) < 1 for name in ("hflip", "vflip"))


def _is_remote(path: str) -> bool:
    return "://" in path or path.startswith(("hf-hub:", "hf_hub:"))


def _is_artifact(file: Path) -> bool:
    """Whether a model is an export or an engine, which others look at."""
    described = file.with_name(f"{file.name}.json")
    return file.suffix in (".onnx", ".engine", ".plan", ".trt") or described.is_file()


def _class_names(case: Case, target: Target) -> list[str] | None:
    """The names of a head's rows that the data will give them; None where that is not known."""
    if not target.by_name or target.kind == "mae":
        return None
    if target.kind == "segmenter":
        with suppress(DataError):  # another rule says it
            return class_names(case("dataset.segmentation.class_list"), case("model.num_classes"))
        return None
    seen = case.facts.data.get("dataset.train_data_sources") or {}
    names = list(seen.get("class_counts") or ())
    # A published head has ImageNet-1k's classes in an order that is known to the run alone.
    return names if not all(re.fullmatch(r"n\d{8}", name) for name in names) else None


def _read(case: Case) -> list[str]:
    """The fields whose files the action reads; its data is counted elsewhere."""
    if case.action == "train":
        resumed = "train.resume_training_checkpoint_path"
        teacher = [TEACHER] if case("train.stage") == "pretrain" else []
        return [resumed, *teacher] if _goes_on(case) else [resumed, *teacher, PRETRAINED]
    engine = [f"{case.action}.trt_engine"] if case.action in RUNS_ENGINES else []
    return [MODEL[case.action], *engine]


def _goes_on(case: Case) -> bool:
    """Whether training continues from a checkpoint: then pretrained weights are not read."""
    if case("train.resume_training_checkpoint_path"):
        return True
    root, own = case("results_dir"), case("train.results_dir")
    folder = Path(own) if own else Path(root) / "train" if root else None
    return folder is not None and any(folder.expanduser().glob("model_epoch_*.pth"))


RULES = [
    Rule(written_places),
    Rule(onnx_name, ("export",)),
    Rule(pushed, ("export",)),
    Rule(segmenter_answers, ("inference",)),
    Rule(format_holds_it, ("export",)),
    Rule(model, tuple(MODEL)),
    Rule(named_files, ("train", *MODEL)),
    Rule(weights, ("train", "evaluate", "inference", "export")),
    Rule(teacher, ("train",)),
    Rule(refined, ("train",)),
]
