"""What was seen in the images and masks of a run: errors where its result would mean nothing,
warnings where it might.

`Facts.data` holds what was seen, by the dotted key of the source; see `mae_sdk.plan.data`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence

from mae_skill import classes as class_lists
from mae_skill.archs import arch_of, hw
from mae_skill.errors import DataError, SpecError
from mae_skill.rules import class_names, depths, masks
from mae_skill.rules.agreement import channels_of
from mae_skill.rules.base import Case, Notice, Rule
from mae_skill.rules.seen import (
    FEW,
    TRAIN,
    VAL,
    Seen,
    files_of,
    first_of,
    masks_of,
    no_classes,
    segments,
    sources,
)
from mae_skill.spelling import TAKEN, and_more, count_of, nearest

BANK = "dataset.probe_train_data_sources"
QUERIES = "dataset.probe_val_data_sources"
TEST = "dataset.test_data_sources"
LIMIT = "dataset.max_corrupt_fraction"
ANNOTATIONS = "annotations/"

RANGE = depths.RANGE
CHANNELS = "dataset.channels"
AUTO_AUG = "dataset.augmentation.auto_aug"
WEIGHTS = "train.class_weights"
SAMPLING = "dataset.balanced_sampling"
MULTI = "model.multi_label"
NEGLIGIBLE = 1e-5
"""Of the largest weight of a class, what is as good as 0."""
VANISHING = 1e-6
"""A loss scaled to less than this vanishes beside the ε of Adam."""
SCALED = 100
"""A loss scaled to more than this many times itself, or to less than this part, was not meant."""
FAR_SHIFT, FAR_SPREAD = 3.0, 5.0
"""A normalized mean so far from 0, and a deviation so many times 1 or so small a part of it."""
OVERDRAWN = 4
"""Times the share that was asked for, which small classes make of it."""
UNEQUAL = 20
"""Times as many images as another class has, from which on the larger one drowns it."""
_MOST_OUTSIDE = 0.5  # of the values; a window on what counts in a scan leaves out less
_BLIND = 0.95  # of the values outside of a range that was set: the rest shows nothing
_ONE_SHADE = 1e-3  # of a range that was set, a quarter of a level of 8 bits
_ERRORS = 3.0  # standard errors by which a sampled share must be above the limit


def unreadable(case: Case) -> None:
    """The run ends when more than a share of its images or masks is unreadable."""
    limit = float(case(LIMIT, 0.01))
    for key, found in sources(case):
        bad, read, total = found.get("bad", 0), found.get("read", 0), found["images"]
        if not bad:
            continue
        what = "images or masks" if "mask_values" in found else "images"
        ranges = _no_range(case, found)
        why = _why(found, depths.without_advice if ranges else str)
        text = f"{bad} of {total} {what} cannot be read{why}"
        if read < total:
            text = f"{bad} of the {read} {what} that were looked at cannot be read{why}"
        if not _is_above(bad, read, total, limit):
            case.warn(key, f"{text}; they are left out" + (f": {ranges}" if ranges else ""))
            continue
        channels = found.get("mask_values", {}).get("several_channels")
        if channels and channels["count"] == bad:
            _several_channels(case, key, found, channels)
            continue
        if _reads_as_trained(case) and _are_others(found):
            case.error(key, text, "pictures as the model's own", _as_trained(case), DataError)
            case.errors[-1].explains = (RANGE, CHANNELS)
            continue
        if ranges:
            case.error(RANGE, f"{key}: {text}", "a range for all pictures", ranges, DataError)
            continue
        hint = _settings(found)
        named = set(re.findall(r"dataset\.[\w.]+", hint or ""))
        if hint and len(named) == 1:
            case.error(named.pop(), f"{key}: {text}", "a value that reads them", hint, DataError)
            continue
        case.errors.append(
            DataError(
                f"{key}: {text}",
                field=LIMIT,
                got=round(bad / read, 6),
                expected=f"at most {limit:g} of the images",
                hint=hint
                or f"fix or remove these files (mae inspect SOURCE lists them), or raise {LIMIT}",
            )
        )


def _no_range(case: Case, found: Seen) -> str:
    """What to do about pictures whose type says no range beside those of other types, where all
    that cannot be read are such; else nothing."""
    reasons = ((found.get("unreadable") or {}).get("reasons") or {}).values()
    if not reasons or not all(depths.UNSAID.search(str(reason)) for reason in reasons):
        return ""
    kinds = depths.of_all(one for _, one in sources(case))
    return depths.mend(kinds, case(RANGE)) if len(kinds) > 1 else ""


def _reads_as_trained(case: Case) -> bool:
    """Whether the model that an action takes says how pictures are read: no setting changes it."""
    return case.action != "train" and bool(case.facts.model.get("mean"))


def _as_trained(case: Case) -> str:
    """What to do with pictures that a trained model does not read as they are."""
    said = case.facts.model
    kept = said.get("value_range")
    values = (
        f"of the range {kept[0]:g} … {kept[1]:g}" if kept else "that use the range of their type"
    )
    bands = count_of(channels_of(said), "band")
    return (
        f"the model was trained on pictures of {bands} {values}: save these so; "
        f"{RANGE} and {CHANNELS} are the model's own"
    )


_SETTING = re.compile(r"set (dataset\.[\w.]+ to .+?)(?:, or .*)?$")
_TOO_LARGE = re.compile(r"pixels, more than the \d+ allowed$")


def _are_others(found: Seen) -> bool:
    """Whether every file that is listed is a picture, and none that the model takes."""
    reasons = ((found.get("unreadable") or {}).get("reasons") or {}).values()
    return bool(reasons) and all(TAKEN in reason for reason in reasons)


def _settings(found: Seen) -> str | None:
    """The settings that read these files, where every reason that is listed names one."""
    reasons = ((found.get("unreadable") or {}).get("reasons") or {}).values()
    said: dict[str, None] = {}
    for reason in reasons:
        if match := _SETTING.search(reason):
            said[f"set {match[1]}"] = None
        elif _TOO_LARGE.search(reason):
            said["raise dataset.augmentation.max_pixels, or save these pictures smaller"] = None
        else:
            return None
    return "; ".join(said) or None


def _is_above(bad: int, read: int, total: int, limit: float) -> bool:
    """Whether the share of bad files is above the limit, for all that was seen."""
    if bad > limit * total:
        return True
    share = bad / max(read, 1)
    margin = _ERRORS * (share * (1 - share) / max(read, 1)) ** 0.5
    return read < total and share - margin > limit


def _why(found: Seen, worded: Callable[[str], str] = str) -> str:
    """The first of the files that cannot be read, from their source on, those of one reason
    together, and how many more there are; ``worded``: what is shown of a reason."""
    reasons = {
        **(found.get("unreadable") or {}).get("reasons", {}),
        **((found.get("mask_values") or {}).get("unreadable") or {}).get("reasons", {}),
    }
    masks = found.get("mask_values") or {}
    others = [
        *(
            f"{name}: several channels"
            for name in masks.get("several_channels", {}).get("files", [])
        ),
        *(
            f"{name}: not as large as its image"
            for name in masks.get("other_size", {}).get("files", [])
        ),
    ]
    groups: dict[str, list[str]] = {}
    for name, reason in list(reasons.items())[:FEW]:
        groups.setdefault(worded(str(reason)), []).append(_below(str(name), found.get("uri")))
    listed = [f"{', '.join(names)}: {reason}" for reason, names in groups.items()]
    listed += others[: FEW - min(FEW, len(reasons))]
    shown = min(FEW, len(reasons) + len(others))
    more = f"; {found['bad'] - shown} more" if found.get("bad", 0) > shown else ""
    return f" ({'; '.join(listed)}{more})" if listed else ""


def _below(name: str, uri: object) -> str:
    """A file's name from its source on, where it is one that has it."""
    return name.removeprefix(uri.rstrip("/") + "/") if isinstance(uri, str) and uri else name


def _several_channels(case: Case, key: str, found: Seen, channels: Seen) -> None:
    modes = ", ".join(channels["channels"])
    case.errors.append(
        DataError(
            f"{channels['count']} of {found['read']} masks have several channels ({modes}), not "
            f"one of class numbers: {files_of(channels)}",
            field=masks_of(key),
            got=modes,
            expected="one channel (or a palette) of class numbers",
            hint="map the colors to class numbers once, and save one channel",
        )
    )


def depth(case: Case) -> None:
    """Values that fill a small part of the range that counts, or lie outside of it."""
    for key, found in sources(case):
        for kind, facts in (found.get("values") or {}).items():
            if facts.get("range"):
                _range(case, key, found, kind, facts)


def _range(case: Case, key: str, found: Seen, kind: str, facts: Seen) -> None:
    (start, end), low, high = facts["range"], facts["low"], facts["high"]
    used = max(0.0, min(high, end) - max(low, start)) / (end - start)
    top = (high - start) / (end - start)
    text = f"{facts['count']} pictures of {kind} have values {_ends(kind, low, high)}"
    fixed = _reads_as_trained(case)
    mend = depths.mend(depths.of_all(one for _, one in sources(case)), case(RANGE))
    mend = _as_trained(case) if fixed else mend
    limit = float(case(LIMIT, 0.01))
    outside = (high <= start and low < start) or (low >= end and high > end)
    if outside and _is_above(facts["count"], found["read"], found["images"], limit):
        case.error(
            key if fixed else RANGE,
            f"{text} ({key}), all outside of {start:g} … {end:g}: every pixel reads as one value",
            f"values in {start:g} … {end:g}" if fixed else f"[low, high] around {low:g} … {high:g}",
            mend,
            kind=DataError,
        )
        return
    blind = facts.get("outside", 0) > _BLIND or (low < high and used < _ONE_SHADE)
    if (
        case.given(RANGE)
        and blind
        and _is_above(facts["count"], found["read"], found["images"], limit)
    ):
        case.error(
            RANGE,
            f"{text} ({key}): in {start:g} … {end:g} nearly every pixel reads as one value",
            f"[low, high] around {low:g} … {high:g}",
            mend,
            kind=DataError,
        )
        return
    if facts["clipped"] > 0.5:
        case.warn(
            key,
            f"{text}; {RANGE} {start:g} … {end:g} loses {facts['clipped']:.0%} of the levels: "
            f"{mend}",
        )
        return
    if facts.get("outside", 0) > _MOST_OUTSIDE:
        case.warn(
            key,
            f"{text}; {facts['outside']:.0%} of the values lie outside of {RANGE} {start:g} … "
            f"{end:g}, and read as one of its ends: {mend}",
        )
        return
    deep = not kind.endswith("int8")
    if used > (depths.DIM if deep else depths.SMALL):
        return
    looks = (
        "nearly black"
        if top <= depths.SMALL
        else "nearly of one shade"
        if used <= depths.SMALL
        else "dim"
    )
    text = f"{text}, {used:.1%} of the range {start:g} … {end:g} that counts: they look {looks}"
    dark = deep and used <= depths.SMALL and not case.given(RANGE)
    if dark and _is_above(facts["count"], found["read"], found["images"], limit):
        case.error(key, text, "values that use their range", mend, kind=DataError)
    else:
        case.warn(key, f"{text}; {mend}")


def _ends(kind: str, low: float, high: float) -> str:
    """``0 … 4095: 12-bit data``; the bits of whole numbers of 16 and more."""
    bits = int(high).bit_length()
    told = (
        f": {bits}-bit data" if kind in ("uint16", "int16", "uint32", "int32") and low >= 0 else ""
    )
    return f"{low:g} … {high:g}{told}"


def no_data(case: Case) -> None:
    """Values that stand for no data, where a range is measured or set."""
    for key, found in sources(case):
        for kind, facts in (found.get("values") or {}).items():
            if isinstance(case(RANGE), list):
                _no_data_outside(case, key, kind, facts)
            elif case(RANGE) == "auto":
                _no_data_measured(case, key, kind, facts)


def _no_data_outside(case: Case, key: str, kind: str, facts: Seen) -> None:
    """Such values beyond the ends of a range that was set read as one of the ends."""
    low, high = case(RANGE)
    left, alone = facts.get("no_data"), facts.get("alone")
    if alone and not low <= alone["value"] <= high:
        case.warn(
            key,
            f"{alone['share']:.1%} of the values of the {facts['count']} pictures of {kind} are "
            f"{alone['value']:g}, far from all others, and read as "
            f"{low if alone['value'] < low else high:g} in {RANGE} {low:g} … {high:g}: where it "
            "stands for no data, fill it before",
        )
    beyond = [value for value in (left or {"values": ()})["values"] if not low <= value <= high]
    if not left or not beyond:
        return
    values = ", ".join(f"{value:g}" for value in beyond)
    ends = " and ".join(
        f"{end:g}" for end, there in ((low, min(beyond) < low), (high, max(beyond) > high)) if there
    )
    case.warn(
        key,
        f"{values} stands for no data in {left['share']:.1%} of the values of the "
        f"{facts['count']} pictures of {kind}, and reads as {ends} in {RANGE} {low:g} … {high:g}, "
        "as such pixels do: fill it before, where that matters",
    )


def _no_data_measured(case: Case, key: str, kind: str, facts: Seen) -> None:
    if left := facts.get("no_data"):
        values = ", ".join(f"{value:g}" for value in left["values"])
        case.warn(
            key,
            f"{values} stands for no data in {left['share']:.1%} of the values of the "
            f"{facts['count']} pictures of {kind}: it is left out of the measured range; "
            "beyond its ends it reads as the nearer one",
        )
    if alone := facts.get("alone"):
        case.warn(
            key,
            f"{alone['share']:.1%} of the values of the {facts['count']} pictures of "
            f"{kind} are {alone['value']:g}, far from all others, and it counts as an end "
            f"of the measured range: where it stands for no data, set {RANGE}=[low, high]",
        )


def strange_statistics(case: Case) -> None:
    """A mean and a deviation that somebody set are about those of the pictures.

    What a network is made for has a mean near 0 and a deviation near 1. Those of ImageNet on
    darker or flatter pictures are usual, so only what is far from it is said.
    """
    fields = [f"dataset.augmentation.{name}" for name in ("mean", "std")]
    values = (case.facts.data.get(TRAIN) or {}).get("values") or {}
    none: Seen = {}
    seen = max(values.values(), key=lambda facts: facts["count"], default=none)
    means, deviations = (case(field) or [] for field in fields)
    if not any(map(case.given, fields)) or not means or not deviations or "mean" not in seen:
        return
    mean, deviation = sum(means) / len(means), sum(deviations) / len(deviations)
    if deviation <= 0 or not seen["deviation"]:
        return
    shift, spread = (seen["mean"] - mean) / deviation, seen["deviation"] / deviation
    if abs(shift) < FAR_SHIFT and 1 / FAR_SPREAD < spread < FAR_SPREAD:
        return
    field = next(field for field in fields if case.given(field))
    case.warn(
        field,
        f"mean {mean:g} and deviation {deviation:g} are not those of the pictures (about "
        f"{seen['mean']:.2g} and {seen['deviation']:.2g}): normalized, they have a mean of "
        f"{shift:.1f} and a deviation of {spread:.2g} in place of 0 and 1; mae inspect SOURCE "
        "prints those of the data",
    )


def one_depth(case: Case) -> None:
    """A range is measured of pictures of one type that have two values or more."""
    values = (case.facts.data.get(TRAIN) or {}).get("values") or {}
    if case(RANGE) != "auto":
        return
    if len(values) == 1:
        (facts,) = values.values()
        if not facts["low"] < facts["high"]:
            case.error(
                RANGE,
                f"no range can be measured: {facts['low']:g} is both the 0.1 and the 99.9 "
                "percentile of the values",
                "pictures whose values differ, or [low, high]",
                f"set {RANGE} to the lowest and the highest value that the pictures can have, "
                "such as [0,1]",
                kind=DataError,
            )
    if len(values) < 2:
        return
    kinds = ", ".join(f"{facts['count']} of {kind}" for kind, facts in values.items())
    case.error(
        RANGE,
        f"the training pictures have different depths: {kinds}",
        "one depth, of which a range can be measured",
        depths.mend(depths.of_all(one for _, one in sources(case)), "auto"),
        kind=DataError,
    )


def policy(case: Case) -> None:
    """Augmentation that works on 8 bits."""
    found = case.facts.data.get(TRAIN) or {}
    named = case(AUTO_AUG)
    deep = [kind for kind in found.get("values") or {} if kind != "uint8"]
    classifies = case("train.stage") == "finetune" and not segments(case)
    if deep and classifies and named not in (None, "none"):
        case.warn(
            AUTO_AUG,
            f"{named} works on 8 bits: of pictures of {', '.join(deep)} it keeps 256 levels; "
            "null keeps them all",
        )


def bands(case: Case) -> None:
    """A band that is left out though it may mean something."""
    for key, found in sources(case):
        if some := found.get("dropped"):
            case.warn(
                key,
                f"{some['count']} pictures have a band that the file does not name; it is left "
                f"out, {CHANNELS} reads all: {files_of(some)}",
            )


def frames(case: Case) -> None:
    """Animations and files of several pages."""
    for key, found in sources(case):
        if some := found.get("frames"):
            case.warn(
                key,
                f"{some['count']} of {found['read']} files hold several frames or pages; the first "
                f"of each is read: {files_of(some)}",
            )


def constant(case: Case) -> None:
    """Pictures of one color teach nothing."""
    for key, found in sources(case):
        flat = found.get("constant")
        if not flat:
            continue
        count, read = flat["count"], found["read"]
        mend = "black pictures are often those of a wrong bit depth or a failed conversion"
        if alpha := flat.get("alpha"):
            mend = (
                f"{alpha} of them show something in their alpha alone, which is dropped: draw them "
                "on a background of another color"
            )
            mend += f", or set {CHANNELS}=4" if case.action == "train" else ""
        if count == read and read > 1 and case.action in ("train", "evaluate"):
            case.error(
                key,
                f"every one of the {read} pictures is of one color alone ({files_of(flat)})",
                "pictures that show something",
                mend,
                kind=DataError,
            )
        else:
            text = f"{count} of {read} pictures are of one color alone: {files_of(flat)}"
            case.warn(key, f"{text}; {mend}" if alpha else text)


def transparent(case: Case) -> None:
    """Pictures of which a viewer shows nothing, and training the colors behind that."""
    for key, found in sources(case):
        if hidden := found.get("transparent"):
            case.warn(
                key,
                f"{hidden['count']} of {found['read']} pictures are transparent all over, and are "
                f"read by the colors that no viewer shows: {files_of(hidden)}; leave them out, or "
                "draw them on a background"
                + (f", or set {CHANNELS}=4" if case.action == "train" else ""),
            )


def lost_values(case: Case) -> None:
    """Pixels that are no numbers."""
    for key, found in sources(case):
        if some := found.get("lost"):
            case.warn(
                key,
                f"{some['count']} of {found['read']} pictures hold NaN or infinite values, in "
                f"{some['share']:.0%} of their pixels on average; these become the ends of the "
                f"range: {files_of(some)}",
            )


def small(case: Case) -> None:
    """Pictures with less than a pixel for a patch, or smaller than one patch of a ViT."""
    arch, size = arch_of(case.spec), case("dataset.augmentation.input_size")
    limit = 2
    if arch is not None and size is not None:
        limit = arch.patch if arch.family == "vit" else min(hw(size)) // arch.patch
    for key, found in sources(case):
        tiny = {side: one for side, one in (found.get("small") or {}).items() if int(side) < limit}
        if tiny:
            side, first = next(iter(tiny.items()))
            lines = tiny.get("1", {"count": 0})["count"]
            if lines == found["read"] and case.action in ("train", "evaluate", "inference"):
                case.error(
                    key,
                    f"all {lines} pictures have a side of 1 pixel, such as {first['first']}: they "
                    "show nothing",
                    f"pictures of {limit} pixels a side, or more",
                    "look at what made these files: mae inspect SOURCE",
                    kind=DataError,
                )
                continue
            case.warn(
                key,
                f"{sum(one['count'] for one in tiny.values())} of {found['read']} pictures have a "
                f"side of less than {limit} pixels, too few for this model to see much: the first "
                f"of {side} is {first['first']}",
            )


_LEFT = {
    "pictures": "pictures in formats, or under names, that are not read",
    "archives": "archives, which nothing unpacks inside a source: each is a source of its own",
    "dangling": "links that lead nowhere",
    "loops": "linked folders that hold themselves",
    "locked": "system folders that may not be read",
}


_FETCH = "fetch what the links point to, or pack it in their place (tar --dereference)"


def left_out(case: Case) -> None:
    """What lies among the images and is not read."""
    for key, found in sources(case):
        left = found.get("left_out") or {}
        parts = [
            f"{left[reason]['count']} {text}: {files_of(left[reason])}"
            for reason, text in _LEFT.items()
            if reason in left
        ]
        if parts:
            case.warn(key, "left out: " + "; ".join(parts))
        if columns := left.get("columns"):
            case.warn(
                key,
                f"of the table of pictures no column of classes is known, and {files_of(columns)} "
                "are not read: call the one that is the class label",
            )
        if columns := left.get("class_columns"):
            read, *others = dict.fromkeys(columns["files"])
            case.warn(
                key,
                f"of the table of pictures the column {read} is read as the classes, and "
                f"{first_of(others)} not: where another is meant, call it label, and the one that "
                "is called so otherwise",
            )
        if boxes := left.get("detection_labels"):
            case.warn(
                key,
                f"what looks like the labels of a detector ({_kinds(boxes)}) is not read: "
                f"{files_of(boxes)}; {_boxes(case, boxes)}",
            )
        if (lost := left.get("dangling")) and lost["count"] > found["images"]:
            case.error(
                key,
                f"{lost['count']} links lead nowhere, and {found['images']} images are there: "
                f"{files_of(lost)}",
                "images, and links to images that are there",
                _FETCH,
                kind=DataError,
            )
        if "twins" in left:
            case.warn(
                key,
                f"{left['twins']['count']} images are files that the source holds under another "
                f"name too, and count again: {files_of(left['twins'])}",
            )


def _kinds(labels: Seen) -> str:
    """Whose labels they are, and what YOLO's are."""
    return ", ".join(labels.get("kinds") or ["COCO, YOLO or VOC"])


def _boxes(case: Case, labels: Seen) -> str:
    """What a detector's labels say, and what can be done with their pictures here."""
    names = labels.get("classes") or []
    of = f" of {len(names)} classes ({and_more(names, FEW)})" if names else ""
    text = f"they say where things{of} are in a picture, not of which class it is"
    if segments(case):
        return f"{text}; a segmenter learns from masks of pixels: draw the outlines into some"
    if case("train.stage") == "pretrain":
        return f"{text}; pretraining needs no labels"
    return (
        f"{text}: classes come from folders or from dataset.labels, where a table of path and "
        "labels (a|b) says which things are in a picture, with model.multi_label=true; pretraining "
        "needs none"
    )


_TABLE = {
    "without_picture": "rows name no picture of the source",
    "without_label": "rows have no label",
    "without_row": "pictures have no row",
    "without_split": "rows are of no split that is known, and left out",
}


def label_file(case: Case) -> None:
    """What of a table of labels and of its pictures does not match."""
    for key, found in sources(case):
        table = found.get("label_file") or {}
        parts = [
            f"{table[reason]['count']} {text}: {files_of(table[reason])}"
            for reason, text in _TABLE.items()
            if reason in table
        ]
        if parts:
            case.warn(key, f"{table['file']}: " + "; ".join(parts))
        for other, used in (table.get("beside") or {}).items():
            case.warn(
                key,
                f"{table['file']}: the column {used} is read; {other} is there too, is not "
                "read, and has other values",
            )
        for other, used in (table.get("other_labels") or {}).items():
            case.warn(
                key,
                f"{table['file']}: the column {used} is read; {other} is there too, is not read, "
                f"and has other values: dataset.labels.columns=[{other}] reads it",
            )
        for column, values in (table.get("no_flags") or {}).items():
            case.warn(
                key,
                f"{table['file']}: the column {column} is no class: beside 0 and 1 it holds "
                f"{values}",
            )
        if other := table.get("against_folders"):
            case.warn(
                key,
                f"{table['file']}: {other['count']} of {other['of']} pictures lie in the folder of "
                f"another class than their row says ({other['first']}): the table counts; where "
                "the folders are right, leave it out",
            )
        if folders := table.get("by_name"):
            listed = first_of([f"{name} ({count})" for name, count in folders.items()])
            case.warn(
                key,
                f"{table['file']}: rows of folders that the source does not have, {listed}, are "
                "taken for its pictures by the names of the files alone",
            )
        if rows := found.get("same_rows"):
            case.warn(
                key,
                f"{table['file']}: {rows['count']} rows give a training image and an image of this "
                f"source their label, by the same name: {files_of(rows)}; where these are two "
                "pictures, write their folders into the paths, or a table for each",
            )
        for text in _how_a_table_is_read(table):
            case.warnings.append(Notice(key, f"{table['file']}: {text}", note=True))
        if unread := table.get("unread"):
            case.warn(
                key,
                f"{table['file']}: the labels are read from one column, and {first_of(unread)} "
                "of 0 and 1 not; where these are the classes, dataset.labels.columns=[…] names "
                "them",
            )
        for column, learned in (table.get("odd_parts") or {}).items():
            case.warn(
                key,
                f"{table['file']}: the column {column} is named like a part of a data set, and "
                + (
                    "learned as a class; dataset.labels.columns=[…] names the classes"
                    if learned
                    else "not read: all rows count; the column split is read (train, val, test)"
                ),
            )
        if empty := table.get("empty"):
            case.warn(
                key,
                f"{table['file']}: {empty['count']} empty cells count as 0 in columns that hold 0 "
                f"and 1: {files_of(empty)}",
            )


def _how_a_table_is_read(table: Seen) -> Iterator[str]:
    """What was taken for the labels and the parts of the data, where no name said so."""
    if marked := table.get("one_hot"):
        yield (
            f"the columns {first_of(marked)} are read as the classes: each row has a 1 in one of "
            "them"
        )
    if only := table.get("only_other"):
        yield f"the labels are those of {only}, its only other column"
    if part := table.get("part_by_values"):
        yield f"{part} tells the parts of the data, and rows of other parts are left out"
    if parted := table.get("between"):
        yield (
            f"labels are parted by {parted['sign']}, as in {parted['first'][:60]}; where it "
            "belongs to a name, write the labels with | between them, or as lists"
        )


def split_classes(case: Case) -> None:
    """Folders named like parts of a data set are no classes."""
    for key in (TRAIN, VAL):
        found = case.facts.data.get(key) or {}
        splits = found.get("split_classes") or []
        if segments(case) or found.get("mask_folders"):
            continue
        if below := found.get("split_below"):
            _parts_below(case, key, found, below)
        if not splits:
            continue
        listed = ", ".join(splits[:FEW])
        if case("train.stage") == "finetune" and case.action == "train":
            case.error(
                key,
                f"the folders {listed} are named like parts of a data set, not like classes",
                "a source with one folder of images per class",
                _name_one(found, splits[0]),
                kind=DataError,
            )
        elif key == TRAIN:
            case.warn(key, f"the parts {listed} of the data set are all trained on")


def _parts_below(case: Case, key: str, found: Seen, below: Seen) -> None:
    """The folders of the classes hold parts of a data set."""
    listed, first = first_of(below["folders"]), below["parts"][0]
    if case("train.stage") == "finetune" and case.action == "train":
        where = str(found.get("root") or found.get("uri") or "…").rstrip("/")
        inside = f"{where}/{found.get('wrapper') or ''}*/{first}/**/*.png"
        case.error(
            key,
            f"the class folders hold parts of a data set: {listed}",
            "a source of one part, with one folder of images per class",
            f"where the folders above are the classes, a pattern names one part: {inside}; where "
            f"they are sites or dates, list the parts themselves: {where}/{below['folders'][0]}, …",
            kind=DataError,
        )
    elif key == TRAIN:
        case.warn(key, f"the parts {listed} of the data set are all trained on")


def _name_one(found: Seen, folder: str) -> str:
    """How to name one folder of a source."""
    inside = f"{found.get('wrapper') or ''}{folder}"
    where = str(found.get("root") or found.get("uri") or "…").rstrip("/")
    if where.lower().endswith((".tar", ".gz", ".tgz", ".zst", ".xz", ".bz2", ".zip")):
        return f"make an archive of one part alone, for example of its folder {inside}"
    return f"name one part as the source, for example {where}/{inside}"


def masks_as_images(case: Case) -> None:
    """Images and their masks are no classes, and masks no pictures to learn from or to predict."""
    for key in (TRAIN, VAL, TEST):
        found = case.facts.data.get(key) or {}
        folders = found.get("mask_folders")
        if not folders or segments(case) or "mask_values" in found:
            continue
        images, masks = ", ".join(folders["images"][:FEW]), ", ".join(folders["masks"][:FEW])
        if case("train.stage") == "finetune" and case.action == "train":
            case.error(
                key,
                f"the folders {images} and {masks} are named like images and their masks, not like "
                "classes",
                "a source with one folder of images per class",
                f"for segmentation: {folders['command']} says what they hold"
                if folders.get("command")
                else "for segmentation: model.task=segmentation (mae inspect SOURCE --masks beside)"
                f"; masks in other folders than {ANNOTATIONS} are named in {masks_of(key)}",
                kind=DataError,
            )
        elif key == TRAIN or case.action != "train":
            taken = "trained on" if case.action == "train" else "taken"
            case.warn(
                key,
                f"the folders {masks} are named like the masks of {images}, and are {taken} as "
                f"pictures; {_name_one(found, folders['images'][0])}",
            )


def like_masks(case: Case) -> None:
    """Two classes of files of the same names, of which one has few values."""
    found = case.facts.data.get(TRAIN) or {}
    like = found.get("like_masks")
    if not like or segments(case) or case("train.stage") != "finetune":
        return
    read = f"; for segmentation: {like['command']}" if like.get("command") else ""
    case.warn(
        TRAIN,
        f"the folders {like['images']} and {like['masks']} hold {like['same']} files of the same "
        f"names, and those of {like['masks']} the values {first_of(like['values'])} alone: they "
        f"look like images and their masks, not like two classes{read}",
        serious=True,
    )


def masks_among(case: Case) -> None:
    """Files that are named as the masks of the pictures beside them."""
    found = case.facts.data.get(TRAIN) or {}
    among = found.get("masks_among")
    if among and not segments(case):
        case.warn(
            TRAIN,
            f"{among['count']} of {found['images']} images are named as masks of the others "
            f"({files_of(among)}) and are read as pictures: move them into a folder of their own; "
            "for segmentation name it, as mae inspect IMAGES --masks MASKS does",
            serious=True,
        )


def unlabeled_classes(case: Case) -> None:
    """Folders named like images without labels are no classes."""
    found = case.facts.data.get(TRAIN) or {}
    names = found.get("unlabeled_classes") or []
    if not names or case("train.stage") != "finetune" or segments(case):
        return
    if found.get("split_classes"):
        return
    if len(names) > 1:
        case.error(
            TRAIN,
            f"the folders {', '.join(names[:FEW])} are named like images with and without labels, "
            "not like classes",
            "a source with one folder of images per class",
            "pretrain on all of them (train.stage=pretrain), then fine-tune on the labeled ones: "
            + _name_one(found, names[0]),
            kind=DataError,
        )
    else:
        case.warn(
            TRAIN,
            f"the folder {names[0]} is named like images without labels and is learned as a class",
        )


def odd_classes(case: Case) -> None:
    """Signs that the folders of another level are the classes."""
    found = case.facts.data.get(TRAIN) or {}
    if case("train.stage") != "finetune" or segments(case) or no_classes(found):
        return
    same = found.get("same_folders") or []
    if same:
        case.warn(
            TRAIN,
            f"the class folders hold the same folders ({first_of(same)}): if these are the "
            "classes, the source is one level too high",
        )
    if 1 < (found.get("classes") or 0) == found.get("images"):
        table = found.get("label_file")
        what = f"the labels of {table['file']}" if table else "the folders"
        text = f"every class has one image alone: are {what} classes?"
        if case(VAL) or case("dataset.val_fraction"):  # which shows what came of it
            case.warn(TRAIN, text)
        else:
            case.error(
                TRAIN,
                f"{text} Nothing tells what is learned of one image each",
                "several images of a class, or validation images of these classes",
                "name the folder above the classes, add images, or name validation images "
                "(--eval-dataset)",
                kind=DataError,
            )
    elif not case(MULTI) and not found.get("unjudged"):
        lone = [name for name, count in (found.get("class_counts") or {}).items() if count == 1]
        if lone:
            text = f"one training image each of {first_of(lone)}: too few to learn a class by"
            case.warn(TRAIN, text + _perhaps(_near_common(found, 0.8)))


def imbalance(case: Case) -> None:
    """Classes of very unequal size, and nothing that makes up for it."""
    found = case.facts.data.get(TRAIN) or {}
    learns = case("train.stage") == "finetune" and not segments(case) and not case(MULTI)
    of_classes = {name: count for name, count in (found.get("class_counts") or {}).items() if count}
    if not learns or len(of_classes) < 2 or no_classes(found):
        return
    if case(WEIGHTS) is not None or case(SAMPLING):
        return
    ordered = sorted(of_classes, key=lambda name: (of_classes[name], name))
    least, most = of_classes[ordered[0]], of_classes[ordered[-1]]
    if most < UNEQUAL * least:
        return
    rare = [
        f"{name} ({of_classes[name]})" for name in ordered if most >= UNEQUAL * of_classes[name]
    ]
    case.warn(
        TRAIN,
        f"classes of very unequal size: {ordered[-1]} ({most}) has {UNEQUAL} times as many images "
        f"as {first_of(rare)} or more (up to {most / least:.0f} times), so that always answering "
        f"{ordered[-1]} gives an accuracy of {most / sum(of_classes.values()):.0%}: judge by "
        f"balanced_accuracy or f1_macro; {WEIGHTS}=balanced or {SAMPLING}=true makes small "
        "classes count",
    )


def thin_share(case: Case) -> None:
    """A share of the training images that leaves one of each class teaches none."""
    found = case.facts.data.get(TRAIN) or {}
    left, classes = found.get("trained_on"), found.get("classes") or 1
    if case(MULTI) or left is None or not left <= classes < found.get("images", 0):
        return
    finetunes = case("train.stage") == "finetune" and not segments(case)
    what = "one image of each class" if finetunes and classes > 1 else f"{left} of the images"
    case.warn("dataset.train_fraction", f"leaves {what} to train on: too few to learn from")


def lost_classes(case: Case) -> None:
    """A class that vanishes because none of its files can be read."""
    found = case.facts.data.get(TRAIN) or {}
    if not found or case.action != "train" or segments(case):
        return
    learns = case("train.stage") == "finetune"
    missing = found.get("missing_classes") or {}
    lost = {name: count for name, count in missing.items() if count}
    if lost and learns:
        left = found.get("left_out") or {}
        suffixes = left.get("suffixes") or {}
        mend = f"convert its {', '.join(list(suffixes)[:FEW])} files to PNG or JPEG"
        if "pictures" not in left and "dangling" in left:
            mend = f"{files_of(left['dangling'])} lead nowhere: {_FETCH}"
        case.error(
            TRAIN,
            "no image of a class is read: "
            + ", ".join(f"{name} ({count} files)" for name, count in list(lost.items())[:FEW]),
            "images in the formats that are read, in every class folder",
            mend,
            kind=DataError,
        )
    empty = [name for name, count in missing.items() if not count]
    if empty and learns:
        listed = ", ".join(empty[:FEW])
        case.warn(TRAIN, f"folders without an image are no classes: {listed}")
    broken = found.get("unreadable_classes") or []
    if broken and learns and found.get("bad", 0) < found.get("read", 1):  # else said of all
        case.error(
            TRAIN,
            f"every image of a class is unreadable: {', '.join(broken[:FEW])}",
            "readable images of every class",
            "mae inspect SOURCE gives the reasons",
            kind=DataError,
        )


def labels(case: Case) -> None:
    """A classifier learns from labeled images, of as many classes as it has, and of two or more."""
    classes = case.facts.classes
    if case("train.stage") != "finetune" or segments(case) or classes is None:
        return

    found = case.facts.data.get(TRAIN) or {}
    if no_classes(found) or any((found.get("missing_classes") or {}).values()):
        return  # said by the rules above; the number of classes follows from it
    if classes == 0:
        boxes = (found.get("left_out") or {}).get("detection_labels")
        text = "the training images have no labels"
        hint = _by_names(found) or _one_folder(found)
        if boxes:
            text = f"{text} that say their class: {boxes['files'][0]} looks like {_kinds(boxes)}"
            hint = _boxes(case, boxes)
        unlabeled(case, TRAIN, text, hint)
    elif classes == 1 and not case(MULTI):
        name, table = (
            next(iter(found.get("class_counts") or ["one class"])),
            found.get("label_file"),
        )
        if case("dataset.classes"):
            case.error(
                "dataset.classes",
                f"names one class alone, {name}: every answer would be right",
                "two classes or more of the data, or null for all",
                "add a class, or set dataset.classes=null",
            )
            return
        case.error(
            TRAIN,
            f"the training images are of one class alone, {name}: every answer would be right",
            "two classes or more in its table"
            if table
            else "two classes or more, one folder of images for each",
            f"write the class of each picture into {table['file']}, or leave out dataset.labels "
            "where the folders are the classes"
            if table
            else "name the folder that holds the class folders; images without classes serve "
            "pretraining (train.stage=pretrain)",
            kind=DataError,
        )
    elif classes != case("model.num_classes"):
        listed = f": {counts(found)}" if found.get("class_counts") else ""
        doubts = [notice.message for notice in case.warnings if notice.field == TRAIN]
        first = f"; first look at what is doubtful: {'; '.join(doubts)}" if doubts else ""
        case.error(
            "model.num_classes",
            f"the training data has {classes} classes{listed}",
            str(classes),
            _slips(found, classes, case("model.num_classes"))
            + f"set model.num_classes={classes}{first}",
        )
    if classes and found.get("unlabelled"):
        unlabeled(case, TRAIN, _loose(found), _IN_NO_FOLDER)


def _slips(found: Seen, classes: int, wanted: object) -> str:
    """What to mend first where the classes that are too many have one picture each, and are named
    nearly like others: they are misspelled rather than meant."""
    pairs = _near_common(found)
    if not pairs or not isinstance(wanted, int) or classes - wanted != len(pairs):
        return ""
    return f"correct what one picture alone has, and may be misspelled: {first_of(pairs)}; else "


def _near_common(found: Seen, cutoff: float = 0.6) -> list[str]:
    """The classes of one picture, each with the class of several that it is named nearly like."""
    table = found.get("class_counts") or {}
    common = [name for name, count in table.items() if count > 1]
    single = [name for name, count in table.items() if count == 1]
    return [f"{name} ({near})" for name in single if (near := nearest(name, common, cutoff))]


def _perhaps(pairs: list[str]) -> str:
    """That names may be misspelled; names that differ in a number are meant."""
    slips = [pair for pair in pairs if not any(one.isdigit() for one in pair)]
    return f"; misspelled, perhaps: {first_of(slips)}" if slips else ""


def loose(case: Case) -> None:
    """Images beside the class folders: what comes of them depends on the training, where nobody
    says which it is."""
    found = case.facts.data.get(TRAIN) or {}
    if not found.get("loose") or segments(case):
        return
    if not case.given("train.stage"):
        case.warn(TRAIN, f"{_loose(found)}: a fine-tuning refuses that, a pretraining takes all")
    elif case("train.stage") == "finetune":
        unlabeled(case, TRAIN, _loose(found), _IN_NO_FOLDER)


_IN_NO_FOLDER = "move them into class folders, or take them out"


def named(case: Case) -> None:
    """Pictures without classes whose files are named by what seem to be classes."""
    found = case.facts.data.get(TRAIN) or {}
    if found.get("words_of_files") and not found.get("label_file"):
        case.warn(TRAIN, f"the images have no classes, but {_by_names(found)}")


def _by_names(found: Seen) -> str:
    """How to learn what the names of files seem to say; empty where they say nothing."""
    words = found.get("words_of_files") or {}
    if not words:
        return ""
    listed = ", ".join(f"{word} ({count})" for word, count in list(words.items())[:FEW])
    more = f" and {len(words) - FEW} more" if len(words) > FEW else ""
    return (
        f"the names of the files seem to say them: {listed}{more}; to learn these, move the images "
        "of each into a folder of its name, or write a table with the columns path and label "
        "(dataset.labels.train)"
    )


def _loose(found: Seen) -> str:
    """How many images are in no class folder, and the first of them."""
    names = found.get("loose") or {}
    listed = f": {files_of(names)}" if names else ""
    return f"{found['unlabelled']} of {found['images']} images are in no class folder{listed}"


def counts(found: Seen, limit: int = 10) -> str:
    """Class names with their numbers of images, the first few."""
    table = found.get("class_counts") or {}
    return and_more([f"{name} ({count})" for name, count in table.items()], limit)


def _one_folder(found: Seen) -> str:
    wrapper, named = found.get("wrapper"), found.get("uri")
    if isinstance(named, list) and len(named) > 1:
        return (
            "the name of a source is no class: sort the images into a folder for each class, in "
            "one source or inside each; images without labels serve pretraining"
        )
    if isinstance(named, str) and named.endswith(("/*", "/**")):
        folder = named.rstrip("*").rstrip("/")
        return f"the pattern names what is in the class folders alone: name their folder, {folder}"
    if not wrapper:
        return "sort them into a folder for each class; images without labels serve pretraining"
    return f"all of them are in the one folder {wrapper}, which was taken for a wrapper"


def multi_label(case: Case) -> None:
    """Pictures of several classes have them from a table, and some picture has several or none."""
    if not case(MULTI) or case("train.stage") != "finetune" or segments(case):
        return
    for key, table in ((TRAIN, "dataset.labels.train"), (VAL, "dataset.labels.val")):
        read = case.action == "train" or (case.action == "evaluate" and key == VAL)
        if read and case(key) and not case(table):
            case.error(
                table,
                f"{MULTI} needs a table: folders give each picture one class",
                "a CSV, TSV, JSON lines or Parquet file with the labels of each picture",
                f"name it, or set {MULTI}=false"
                if case.action == "train"
                else "name the table: the model was trained on pictures of several classes",
            )
    if case.action != "train":
        return
    found = case.facts.data.get(TRAIN) or {}
    counts = (found.get("label_file") or {}).get("labels") or {}
    if counts and counts["min"] == counts["max"] == 1:
        case.warn(
            MULTI,
            f"every picture of the table has one label: {MULTI}=false learns one class for each "
            "better, by a softmax; where a cell holds several labels, write | between them",
        )
    elif counts and counts["min"]:
        note = (
            "every picture of the table has a label: of one that shows none of them the model will "
            "mostly say one all the same; rows of such pictures without a label teach it"
        )
        case.warnings.append(Notice("dataset.labels.train", note, note=True))
    of_classes, images = found.get("class_counts") or {}, found.get("images")
    if of_classes and all(count in (0, images) for count in of_classes.values()):
        has = "every" if all(of_classes.values()) else "either every or no"
        case.error(
            "dataset.labels.train",
            f"{has if any(of_classes.values()) else 'no'} picture has each of the labels "
            f"({first_of(list(of_classes))}): there is nothing to learn",
            "a label that some pictures have and others have not",
            "leave the label out of dataset.labels.columns, or correct the table",
            kind=DataError,
        )
        return
    absent = [name for name, count in of_classes.items() if not count]
    if absent:
        case.warn(TRAIN, f"no picture has the label {first_of(absent)}: it is not learned")
    if every := [name for name, count in of_classes.items() if count == images]:
        case.warn(
            TRAIN, f"every picture has the label {first_of(every)}: there is nothing to tell apart"
        )
    if case(SAMPLING):
        case.error(
            SAMPLING,
            "a picture of several classes cannot be drawn for one of them",
            "false with model.multi_label",
            "train.class_weights=balanced weights rare labels",
        )


def class_weights(case: Case) -> None:
    """Weights name classes of the training data, and do not correct twice."""
    given = case(WEIGHTS)
    if given is None or case("train.stage") != "finetune":
        return
    if segments(case) and given == "balanced":
        case.errors.append(balanced_masks())
        return
    classes = known_classes(case)
    if isinstance(given, Mapping) and classes:
        if problem := unknown_weights(given, classes, several=bool(case(MULTI))):
            case.errors.append(problem)
        else:
            _doubtful_weights(case, given, classes)
    if given == "balanced" and case(SAMPLING):
        case.warn(
            WEIGHTS,
            f"balanced, and {SAMPLING} too: small classes count for more twice over; one of the "
            "two is meant",
        )


def _doubtful_weights(case: Case, given: Mapping[str, float], classes: Sequence[str]) -> None:
    """Weights of classes that some class is lost by, or that do not do what they are given for."""
    weights = [float(given.get(name, 1.0)) for name in classes]
    if lost := [name for name in given if given[name] <= NEGLIGIBLE * max(weights)]:
        nothing = "0" if not any(given[name] for name in lost) else "next to 0 beside the others"
        case.warn(WEIGHTS, f"weight {nothing}: {first_of(lost)} is not learned")
        return
    mean = sum(weights) / len(weights)
    if min(weights) == max(weights) and (mean == 1 or not case(MULTI)):
        case.warn(
            WEIGHTS,
            f"has no effect: every class has the weight {mean:g}"
            + ("" if mean == 1 else ", which scales the loss alone"),
        )
    if not 1 / SCALED <= mean <= SCALED and not case(MULTI):
        case.warn(
            WEIGHTS,
            f"the weights scale the loss to {mean:g} times itself, beside weight decay and "
            "clipping: divide them by their mean",
        )


def known_classes(case: Case) -> list[str]:
    """The names of the classes that are learned, as far as they are known."""
    if not segments(case):
        found = case.facts.data.get(TRAIN) or {}
        return list(found.get("class_counts") or {})
    try:
        return class_lists.class_names(
            case("dataset.segmentation.class_list"), case("model.num_classes")
        )
    except DataError:  # which has an error of its own
        return []


def balanced_masks() -> SpecError:
    """The error of weights that would count the images of each class, where each has several."""
    return SpecError(
        "a mask holds several classes, so that no class has images of its own to count",
        field=WEIGHTS,
        got="balanced",
        expected="a mapping of class to weight",
        hint='{"1": 5} say, by the names of dataset.segmentation.class_list or the numbers',
    )


def unknown_weights(
    given: Mapping[str, float], classes: Sequence[str], *, several: bool = False
) -> SpecError | None:
    """What is wrong with weights of classes; `several`: an image may be of several of them."""
    unknown = [name for name in given if name not in classes]
    if unknown:
        return SpecError(
            f"no class of the training data is named {first_of(unknown)}",
            field=WEIGHTS,
            got=dict(given),
            expected=f"classes among {first_of(classes)}",
            hint="write each class as the training data name it",
        )
    most = max((float(given.get(name, 1.0)) for name in classes), default=1.0)
    if 0 < most < VANISHING:
        return SpecError(
            f"weights of at most {most:g} scale the loss to nothing: no class is learned",
            field=WEIGHTS,
            got=dict(given),
            expected="weights around 1",
            hint="multiply all of them by one number: their ratios count",
        )
    counted = [name for name in classes if given.get(name, 1.0) > NEGLIGIBLE * most]
    least = 1 if several else min(2, len(classes))
    if len(counted) < least:
        text = "no class counts: all weights are 0"
        if counted:
            text = f"{counted[0]} alone counts, and would be the answer to every image"
        return SpecError(
            text,
            field=WEIGHTS,
            got=dict(given),
            expected=f"a weight above 0 of {'two classes' if least > 1 else 'a class'} or more",
            hint="give all classes weights of one size: the ratio of two says how much more one "
            "counts, 2 to 10 at most, say",
        )
    return None


def validation_classes(case: Case) -> None:
    """Validation images are of the classes that the model knows."""
    found = case.facts.data.get(VAL) or {}
    against = found.get("against")
    if not against or segments(case) or not _classifies(case, found):
        return
    unknown = against["unknown"]
    if unknown and (case.action != "train" or not no_classes(found)):  # said of training data
        listed = ", ".join(f"{name} ({count})" for name, count in list(unknown.items())[:FEW])
        case.error(
            VAL,
            f"{len(unknown)} class{'es' if len(unknown) > 1 else ''} of the validation images "
            f"{'are' if len(unknown) > 1 else 'is'} not among those that the model learns: "
            f"{listed}",
            "classes named as those of the training data",
            class_names.near(case),
            kind=DataError,
        )
        return
    if against["unlabelled"]:
        unlabeled(case, VAL, _loose({**found, "unlabelled": against["unlabelled"]}))
        return
    absent, known = against["absent"], against["known"]
    if absent and known - len(absent) < 2 <= known:
        text = "the images are of one class alone: their accuracy says nothing of the others"
        if case.action != "train" and (case(MULTI) or case.facts.model.get("multi_label")):
            case.warn(VAL, text)  # of labels that an image has or has not, one is judged by itself
            return
        chosen = case.action != "train" and case("dataset.classes")
        mend = "add images of the other classes"
        case.error(
            "dataset.classes" if chosen else VAL,
            text,
            "two classes or more, or null for all" if chosen else "images of every class",
            f"{mend}, or hold some out with dataset.val_fraction"
            if case.action == "train"
            else "add a class, or set dataset.classes=null"
            if chosen
            else f"{mend}; the inference action answers without a score",
            kind=DataError,
        )
    elif absent:
        listed = ", ".join(absent[:FEW]) + (" …" if len(absent) > FEW else "")
        case.warn(VAL, f"no image of {len(absent)} of {known} classes: {listed}")


def inferred_labels(case: Case) -> None:
    """What the folders or the table call the images is among what the model can answer."""
    for key, found in sources(case):
        against = found.get("against") or {}
        unknown = against.get("unknown") or {}
        told = found.get("label_file") or against.get("near")
        if not unknown or not (told or len(unknown) < (found.get("classes") or 0)):
            continue  # folders that are no classes at all
        listed = ", ".join(f"{name!a} ({count})" for name, count in list(unknown.items())[:FEW])
        near = [f"{name!a} for {known!a}" for name, known in (against.get("near") or {}).items()]
        meant = f"; perhaps another spelling: {first_of(near)}" if near else ""
        case.warn(
            key,
            f"labels that the model does not know, so that true_label of results.csv differs from "
            f"every answer: {listed}{meant}",
        )


def probes(case: Case) -> None:
    """The images of probes have labels, of the classes of their bank."""
    asked = QUERIES if case.action == "train" or case(QUERIES) else VAL
    bank = case.facts.data.get(BANK) or {}
    queries = case.facts.data.get(asked) or {}
    if case.action == "evaluate" and not bank:
        _without_bank(case, asked, queries)
        return
    for key, found in ((BANK, bank), (asked, queries)):
        unknown = (found.get("against") or {}).get("unknown") or {}
        loose = found.get("unlabelled", 0)
        if unknown:
            listed = ", ".join(f"{name} ({count})" for name, count in list(unknown.items())[:FEW])
            case.error(
                key,
                f"{len(unknown)} classes are not among those of {BANK}: {listed}",
                "class folders named as those of the bank",
                "rename the folders, or add images of these classes to the bank",
                kind=DataError,
            )
        elif loose and case.action == "evaluate" and key != BANK:
            case.warn(BANK, f"has no effect: there is no probe, for {_loose(found)}")
        elif loose:
            unlabeled(case, key, _loose(found), "a probe asks for the class of every image")
    _in_the_bank(case, bank, asked, queries)
    if bank.get("classes") and not case(asked) and max(bank["class_counts"].values()) < 2:
        case.error(
            BANK,
            "every image is the only one of its class: the probe has nothing to judge",
            "two images of a class, or more",
            f"name {QUERIES}, or add images",
            kind=DataError,
        )


def _without_bank(case: Case, key: str, found: Seen) -> None:
    """A probe without a bank asks each image about the others, in two parts of every class."""
    of_classes = [count for count in (found.get("class_counts") or {}).values() if count]
    judges = case.facts.model.get("stage") == "pretrain" and not found.get("unlabelled")
    if judges and of_classes and min(of_classes) < 2:
        case.error(
            key,
            "a probe without a bank needs two images of every class",
            "two images of a class, or more",
            f"set {BANK} to other labeled images, or add images",
            kind=DataError,
        )


def few(case: Case) -> None:
    """Pretraining sees several pictures, and a probe asks for no more neighbors than there are."""
    found = case.facts.data.get(TRAIN) or {}
    if case("train.stage") == "pretrain" and found.get("images") == 1:
        case.warn(TRAIN, "one picture alone: what is learned is this picture")
    bank = (case.facts.data.get(BANK) or {}).get("images")
    nearest = case("train.probe.k")
    if bank and nearest and nearest > bank and case.given("train.probe.k"):
        case.warn(
            "train.probe.k",
            f"{nearest} nearest neighbors of a bank of {bank} images: all of them vote on every "
            "query",
        )


def neighbors(case: Case) -> None:
    """Each image has as many other images as neighbors are asked for."""
    key = "inference.neighbors"
    nearest = case(key) or 0
    if case.facts.judged and nearest >= case.facts.judged:
        case.error(
            key,
            "there are not so many other images",
            f"at most {case.facts.judged - 1}, of {case.facts.judged} images; 0 = none",
            f"set {key}={most} or less, or name more images beside them"
            if (most := case.facts.judged - 1) > 0
            else f"name the images to look among beside this one, or set {key}=0",
        )


def named_twice(case: Case) -> None:
    """Each source of images that judge a model is named once."""
    named = case(VAL)
    if not isinstance(named, list):
        return
    if twice := [one for at, one in enumerate(named) if one in named[:at]]:
        case.warn(VAL, f"{twice[0]} is named twice: its images count twice in every score")


def idle_bank(case: Case) -> None:
    """A bank is named for probes, which are off by default."""
    if case("train.stage") != "pretrain" or case("train.probe.interval"):
        return
    if case(BANK) and case.given(BANK):
        case.warn(
            BANK,
            "has no effect: train.probe.interval is 0, so that no probe is taken and the best "
            "checkpoint is chosen by train_loss; train.probe.interval=1 asks after every epoch",
        )


def _alike(pair: Sequence[str]) -> str:
    """Two places of one image: ``a = b``; the same place but once."""
    return " = ".join(dict.fromkeys(pair))


def _in_the_bank(case: Case, bank: Seen, key: str, queries: Seen) -> None:
    """Images that a probe asks about and finds in its bank: each is its own nearest neighbor."""
    twins = queries.get("shared") or {}
    if twins.get("count"):
        text = (
            f"{twins['count']} of the {twins['compared']} images that were compared are in {BANK} "
            f"too, each its own nearest neighbor: {_alike(twins['pairs'][0])}"
        )
        if twins["count"] < twins["compared"]:
            case.warn(key, f"{text}; the scores flatter")
        else:
            case.error(
                key,
                text,
                "images that are not in the bank",
                "take these images out of one of the two",
                kind=DataError,
            )
    copies = bank.get("repeated")
    if copies and copies["count"] and not queries:
        pair = _alike(copies["pair"])
        text = f"{copies['count']} images are copies of others; the scores flatter: {pair}"
        case.warn(BANK, text)


def shared(case: Case) -> None:
    """Validation images that are training images too."""
    found = case.facts.data.get(VAL) or {}
    twins = found.get("shared")
    if twins and twins.get("of"):
        note = (
            f"compared with {twins['with']} of the {twins['of']} training images of the same size "
            "alone"
        )
        case.warnings.append(Notice(VAL, note, note=True))
    if twins and twins["count"]:
        pairs = ", ".join(_alike(pair) for pair in twins["pairs"][:2])
        same = f"{twins['count']} of the {twins['compared']} images that were compared are training"
        apart = twins.get("apart") or {}
        if apart and _classifies(case, found):
            pair = _alike(apart["pair"])
            text = f"{same} images too, {apart['count']} of them with another class there: {pair}"
            case.warn(VAL, f"{text}; one of the two is wrong, and no score can be trusted")
        else:
            case.warn(VAL, f"{same} images too, so that the scores flatter: {pairs}")


def taught(case: Case) -> None:
    """Images to evaluate on that the model was trained on."""
    twins = (case.facts.data.get(VAL) or {}).get("taught")
    if not twins:
        return
    pairs = ", ".join(_alike(pair) for pair in twins["pairs"][:2])
    pretrained = case("train.stage") == "pretrain"  # its probes have seen no label
    what = "the reconstruction loss flatters" if pretrained else "the scores flatter"
    held = ""
    if twins.get("held_out"):
        held = f", which held {twins['held_out']:g} of them out"
        held += "" if pretrained else " and chose its checkpoint by these"
    case.warn(
        VAL,
        f"{twins['count']} of the {twins['compared']} images that were compared are those that "
        f"{twins['job']} trained the model on{held}; {what}: {pairs}",
    )


def chose(case: Case) -> None:
    """Images to evaluate on by which the model's checkpoint was chosen."""
    twins = (case.facts.data.get(VAL) or {}).get("chose")
    if not twins:
        return
    which = "these are the images"
    if twins.get("count"):
        which = f"{twins['count']} of the {twins['compared']} images that were compared are those"
    pairs = ", ".join(_alike(pair) for pair in twins.get("pairs", ())[:2])
    case.warn(
        VAL,
        f"{which} by which {twins['job']} chose the model's checkpoint: the scores are optimistic; "
        f"judge it on others{': ' if pairs else ''}{pairs}",
    )


def repeated(case: Case) -> None:
    """One picture in two classes teaches nothing, and copies of a picture make a held-out share of
    the training images flatter."""
    for key in (TRAIN, VAL):
        _torn(case, key)
    found = case.facts.data.get(TRAIN) or {}
    copies = found.get("repeated") or {}
    if copies.get("of"):
        note = (
            f"copies were looked for in {copies['with']} of {copies['of']} images of a common size"
        )
        case.warnings.append(Notice(TRAIN, note, note=True))
    if copies.get("count") and found.get("held_out"):
        case.warn(
            TRAIN,
            f"{copies['count']} images are copies of others; where one of them is held out and "
            f"another trained on, the scores flatter: {_alike(copies['pair'])}",
        )


def _torn(case: Case, key: str) -> None:
    found = case.facts.data.get(key) or {}
    torn = (found.get("repeated") or {}).get("torn")
    if not torn or segments(case) or not _classifies(case, found):
        return
    same = found.get("constant", {}).get("count", 0) + found.get("bad", 0)
    if same >= found.get("read", 1):  # all are alike, or cannot be read: said of each
        return
    pair = _alike(torn["pair"])
    if torn["images"] < found["images"]:
        case.warn(key, f"{torn['count']} images are in several classes at once: {pair}")
    else:
        text = f"every image is in several classes at once, so none can be learned: {pair}"
        case.error(
            key,
            text,
            "a picture in the folder of its own class",
            "see in which of its folders each picture belongs, and delete the other copies",
            kind=DataError,
        )


def _classifies(case: Case, found: Seen) -> bool:
    """Whether a classifier is trained, or judged by these images: the spec says so, or the classes
    of the model that it names are known."""
    if case("train.stage") == "finetune":
        return True
    of_bank = bool(case.facts.data.get(BANK))  # of a pretrained model: `probes` tells of these
    return case.action == "evaluate" and bool(found.get("against")) and not of_bank


def held_out(case: Case) -> None:
    """A held-out share leaves every class something to learn from and something to be judged by."""
    found = case.facts.data.get(TRAIN) or {}
    held, field = found.get("held_out"), "dataset.val_fraction"
    if held is None or "images" not in found:
        return
    trained_on = found.get("trained_on", found["images"])
    if not held:
        text = f"none of the {trained_on} images can be held out: each is the only one of its class"
        hint = f"name {VAL}, or train without validation: {field}=null, and no AutoML"
        case.error(field, text, "two images of a class, or more", hint, kind=DataError)
        return
    if held >= trained_on:
        text = f"all of the {trained_on} images are held out, so that none is left to train on"
        case.error(
            field, text, "a smaller share, 0.2 say", "lower dataset.val_fraction", kind=DataError
        )
        return
    asked = float(case(field) or 0.0)
    if asked and held > OVERDRAWN * asked * trained_on:
        case.warn(
            field,
            f"{asked:g} holds {held} of {trained_on} images out, {held / trained_on:.0%}: one of "
            "each class at least",
        )
    if case("train.stage") != "finetune" or segments(case):
        return
    if case(MULTI):  # a picture counts for one of its classes here, and teaches all of them
        return
    if names := found.get("untaught"):
        text = f"no image is left to train on of {first_of(names)}"
        case.error(
            field,
            text,
            "a smaller share, 0.2 say, or more images",
            "lower dataset.val_fraction, or name validation images",
            kind=DataError,
        )
    if names := found.get("unjudged"):
        slips = _perhaps(_near_common(case.facts.data.get(TRAIN) or {}, 0.8))
        case.warn(
            field,
            f"{first_of(names)}: one image each, which is trained on, so that validation says "
            f"nothing of these classes{slips}",
        )


def unlabeled(case: Case, key: str, message: str, hint: str | None = None) -> None:
    """Refuse images without labels."""
    mend = "name the folder that holds the class folders, or a table of labels in dataset.labels"
    hint = hint or mend
    field = {TRAIN: "dataset.labels.train", VAL: "dataset.labels.val"}.get(key)
    near = (case.facts.data.get(key) or {}).get("labels_near") or {}
    if field and "table" in near:
        hint = f"if {near['table']} holds their labels, set {field}={near['table']}; else {hint}"
    elif field and "archive" in near:
        hint = (
            f"if {near['archive']} holds a table of their labels, unpack it and set {field} to the "
            f"table; else {hint}"
        )
    case.error(key, message, "one folder of images per class", hint, kind=DataError)


INSPECTED = [
    unreadable,
    depth,
    no_data,
    bands,
    frames,
    lost_values,
    small,
    constant,
    left_out,
    label_file,
    split_classes,
    masks_as_images,
    like_masks,
    masks_among,
    unlabeled_classes,
    odd_classes,
    loose,
    named,
    lost_classes,
    validation_classes,
    shared,
    repeated,
    *class_names.INSPECTED,
]
"""What holds of data whatever is trained on them."""

RULES = [
    Rule(unreadable),
    Rule(depth),
    Rule(no_data),
    Rule(transparent),
    Rule(strange_statistics, ("train",)),
    Rule(bands),
    Rule(one_depth, ("train",)),
    Rule(policy, ("train",)),
    Rule(frames),
    Rule(lost_values),
    Rule(small),
    Rule(constant),
    Rule(left_out),
    Rule(label_file),
    Rule(split_classes, ("train",)),
    Rule(masks_as_images, ("train", "evaluate", "inference")),
    Rule(like_masks, ("train",)),
    Rule(masks_among, ("train",)),
    Rule(unlabeled_classes, ("train",)),
    Rule(odd_classes, ("train",)),
    Rule(imbalance, ("train",)),
    Rule(thin_share, ("train",)),
    Rule(lost_classes, ("train",)),
    *(Rule(check, ("train",)) for check in class_names.INSPECTED),
    Rule(class_names.stored_unlike_training, ("evaluate", "inference")),
    Rule(labels, ("train",)),
    Rule(multi_label, ("train", "evaluate")),
    Rule(class_weights, ("train",)),
    Rule(validation_classes, ("train", "evaluate")),
    Rule(inferred_labels, ("inference",)),
    Rule(probes, ("train", "evaluate")),
    Rule(idle_bank, ("train",)),
    Rule(few, ("train",)),
    Rule(neighbors, ("inference",)),
    Rule(named_twice, ("train", "evaluate")),
    Rule(shared, ("train",)),
    Rule(taught, ("evaluate",)),
    Rule(chose, ("evaluate",)),
    Rule(repeated, ("train", "evaluate")),
    Rule(held_out, ("train",)),
    *(Rule(check, ("train", "evaluate")) for check in masks.RULES),
]
