"""What a data source holds: counts, sizes, channels, classes, unreadable files, mean and std,
duplicates, a contact sheet; and what its masks hold."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mae_skill.dotted import get_dotted
from mae_skill.errors import DataError
from mae_skill.mask_meaning import IGNORE, MASK_VALUES, REDUCE_ZERO, first_settings
from mae_skill.origin import Origin
from mae_skill.rules import masks as mask_rules
from mae_skill.rules.base import Case, Facts
from mae_skill.rules.samples import INSPECTED
from mae_skill.rules.seen import TRAIN, VAL

from mae_sdk import files
from mae_sdk.data.class_names import (
    doubtful_names,
    near_names,
    numbers_and_names,
    words_of_files,
)
from mae_sdk.data.decode import DEFAULT, as_shown, decode
from mae_sdk.data.detection import labels_beside, named_classes
from mae_sdk.data.label_file import LabeledSource, LabelTable, labeled
from mae_sdk.data.left_out import FEW
from mae_sdk.data.like_masks import like_masks, mask_command
from mae_sdk.data.of_classes import of_classes
from mae_sdk.data.pairs import IMAGES, MASKS, Pairs, images_of, open_pairs
from mae_sdk.data.parts import (
    lone_split,
    made_folders,
    mask_folders,
    masks_among,
    odd_parts,
    split_folders,
    unlabeled_folders,
)
from mae_sdk.data.reading import Reading
from mae_sdk.data.source import Source, open_source
from mae_sdk.data.survey import (
    Findings,
    glance,
    measured,
    repeated_images,
    spread,
)
from mae_sdk.data.survey_masks import survey_masks
from mae_sdk.storage.output_files import OutputKind, output_file

AT_ONCE = 1 << 20  # pixels of a large image that are summed up at once
LISTED = 50
NAMED = 5
DEFAULT_LIMIT = 0.01
"""Share of unusable files that training tolerates by default."""
SHEET = (8, 6)
TILE = 96


class Asked(NamedTuple):
    """What somebody sets for the run for which data are judged.

    Attributes:
        spec: the fields that are set, as nested sections; others have their default.
        provenance: dotted key → where it was set.
    """

    spec: Mapping[str, Any] = {}
    provenance: Mapping[str, Origin] = {}

    @property
    def limit(self) -> float:
        """The share of unusable files that training tolerates."""
        limit = get_dotted(self.spec, "dataset.max_corrupt_fraction")
        return float(limit) if isinstance(limit, (int, float)) else DEFAULT_LIMIT


ANY_RUN = Asked()


def inspect_source(
    uri: str | os.PathLike[str] | Sequence[str],
    *,
    other: str | os.PathLike[str] | Sequence[str] | None = None,
    read_other: bool = False,
    contact_sheet: str | os.PathLike[str] | None = None,
    statistics_from: int = 2000,
    cache_dir: str | os.PathLike[str] | None = None,
    reading: Reading = DEFAULT,
    labels: LabelTable | None = None,
    other_labels: LabelTable | None = None,
    classes: Sequence[str] | None = None,
    with_masks: bool = False,
    asked: Asked = ANY_RUN,
) -> dict[str, Any]:
    """Read every image of a source once, as a run reads it, and report what it holds.

    Args:
        uri: what `open_source` takes.
        other: a second source (validation against training): images with the same bytes in both are
            reported as leaks, and the class lists are compared.
        read_other: read every image of `other` too; its own report is then under ``other``.
        contact_sheet: where to write a PNG of up to 48 evenly spaced images; ``None`` = nowhere. An
            older contact sheet is replaced, another file is not.
        statistics_from: mean and std come from at most this many evenly spaced images.
        reading: bands, value range, orientation and limit of pixels, as a spec states them.
        labels, other_labels: the table of the classes of `uri`, and of `other`; None: the folders
            are the classes.
        classes: of which the pictures alone count, in the order of the labels; None: all.
        with_masks: the sources are for segmentation: masks beside the images are none of them.
        asked: of the run for which they are judged.

    Returns:
        JSON types: ``sources, digest, images, bytes, classes {name: count}, unlabelled, width and
        height {min, median, max}, formats, channels, unreadable {count, files, reasons},
        value_range (that was used, where it is not each type's own), mean, std (of each channel in
        0–1, over pixels), duplicates {count, groups}, shared {count, pairs},
        contact_sheet``. Every image is in ``formats`` and ``channels``, or unreadable.
        ``verdict {usable, problems, warnings}`` comes first; ``other_classes``: how those of
        `other` differ; further keys: `facts_of`. Lists of files are bounded to 50; the counts are
        not.

    Raises:
        DataError: the source is missing, empty or hostile.
        StorageError: it could not be read.
    """
    sheet = (
        None if contact_sheet is None else output_file(contact_sheet, SHEET_FILE, "contact_sheet")
    )
    source = open_source(uri, cache_dir)
    if with_masks:
        source = images_of(source, str(uri))
    if labels is not None and labels.file:
        source = labeled(source, labels)
    source = of_classes(source, classes, required=True)
    stated, reading = reading, measured(source, reading)
    report, facts, hashes = _looked_at(source, reading, statistics_from)
    judged = {TRAIN: facts}
    if other is not None:
        theirs = open_source(other, cache_dir)
        if with_masks:
            theirs = images_of(theirs, str(other), "val")
        if other_labels is not None and other_labels.file:
            theirs = labeled(theirs, other_labels)
        theirs = of_classes(theirs, classes, required=False)
        report["shared"] = _shared(source, hashes, theirs)
        report["other_classes"] = compare_classes(source.classes, theirs)
        seen: dict[str, Any] = {"images": len(theirs), "read": 0}
        seen["split_classes"] = split_folders(theirs.classes)
        if read_other:
            report["other"], seen, _ = _looked_at(theirs, reading, statistics_from)
        judged[VAL] = {
            **seen,
            "against": report["other_classes"] if source.classes else None,
            "shared": {**report["shared"], "compared": len(theirs)},
        }
    if sheet is not None:
        report["contact_sheet"] = str(write_contact_sheet(source, sheet, reading))
    return {"verdict": judge(judged, stated, asked), **report}


def _looked_at(
    source: Source, reading: Reading, statistics_from: int
) -> tuple[dict[str, Any], dict[str, Any], dict[bytes, list[int]]]:
    """Read every image of a source: its report, what rules need to know, hash → places."""
    import numpy as np

    chosen = set(spread(len(source), statistics_from))
    widths, heights = [], []
    formats: Counter[str] = Counter()
    channels: Counter[str] = Counter()
    found = Findings()
    hashes: dict[bytes, list[int]] = {}
    pixels = 0
    total, squares = np.zeros(reading.bands), np.zeros(reading.bands)
    for i in range(len(source)):
        try:
            data = source.read(i)
            hashes.setdefault(_hash(data), []).append(i)
            seen = glance(data, source.members[i], reading, pixels=i in chosen)
        except DataError as error:
            found.add(i, error)
            continue
        found.add(i, seen)
        formats[seen.format] += 1
        channels[seen.mode] += 1
        widths.append(seen.width)
        heights.append(seen.height)
        if seen.pixels is not None:
            values = seen.pixels.reshape(-1, reading.bands)
            pixels += len(values)
            for start in range(0, len(values), AT_ONCE):
                part = values[start : start + AT_ONCE].astype(np.float64) / 255
                total += part.sum(0)
                squares += np.square(part).sum(0)

    mean = total / max(1, pixels)
    std = np.sqrt(np.maximum(squares / max(1, pixels) - np.square(mean), 0))
    bad, facts = found.bad[:LISTED], facts_of(source, found.close())
    report: dict[str, Any] = {
        "sources": source.uris,
        "digest": source.digest,
        "images": len(source),
        "bytes": int(source.sizes.sum()),
        "classes": class_counts(source),
        "unlabelled": unlabeled(source),
        "width": _spread(widths),
        "height": _spread(heights),
        "formats": dict(formats.most_common()),
        "channels": dict(channels.most_common()),
        "unreadable": {
            "count": len(found.bad),
            "files": [source.path(place) for place, _ in bad],
            "reasons": {source.path(place): reason for place, reason in bad},
        },
        "value_range": None if reading.value_range == "dtype" else list(reading.value_range),
        "mean": [round(float(value), 4) for value in mean] if pixels else None,
        "std": [round(float(value), 4) for value in std] if pixels else None,
        "duplicates": _duplicates(source, hashes),
    }
    said = (*report, "repeated")  # duplicates name all of them
    report |= {name: fact for name, fact in facts.items() if name not in said}
    return report, facts, hashes


def judge(
    data: Mapping[str, Mapping[str, Any]], reading: Reading = DEFAULT, asked: Asked = ANY_RUN
) -> dict[str, Any]:
    """Whether data can be trained on as they are, by the rules that hold for any training.

    Args:
        data: what was seen, by the dotted key of a source, as rules take it.
        asked: of that training; without a stage it is a fine-tuning.

    Returns:
        ``{"usable", "problems", "warnings"}``, the latter two as sentences.
    """
    ends = reading.value_range
    spec = {
        **asked.spec,
        "train": {"stage": "finetune", **asked.spec.get("train", {})},
        "dataset": {
            **asked.spec.get("dataset", {}),
            "value_range": ends if isinstance(ends, str) else list(ends),
        },
    }
    case = Case("train", spec, asked.provenance, Facts(data=data))
    for rule in INSPECTED:
        rule(case)
    return {
        "usable": not case.errors,
        "problems": [
            error.message.removeprefix(f"{TRAIN}: ") + (f"; {error.hint}" if error.hint else "")
            for error in case.errors
        ],
        "warnings": [notice.message for notice in case.warnings],
    }


def facts_of(source: Source, pictures: Findings) -> dict[str, Any]:
    """What rules and plans need to know of a source.

    Returns:
        JSON types: ``images, classes, class_counts {class: images}, unlabelled, digest, read, bad``
        (of those read, unreadable), and, where there are any, ``unreadable, constant, frames,
        values, dropped`` (`Findings.to_dict`), ``left_out, missing_classes`` (folders without an
        image that is read),
        ``loose`` (``{count, files}`` of images in no class folder, where there are classes),
        ``words_of_files`` (word → files, where there are no classes and names seem to hold some),
        ``label_file`` (`LabeledSource.table`), ``labels_from``, ``labels_differ`` (of `Source`),
        ``split_classes`` (classes named like parts of a data set), ``lone_splits``, ``odd_parts``
        (that may be such), ``made_folders`` (`mae_sdk.data.parts.made_folders`),
        ``mask_folders`` (images and their masks, `mae_sdk.data.parts`; ``command``: that reads two
        folders so), ``like_masks`` (the same by names and values of files,
        `mae_sdk.data.like_masks`),
        ``unlabeled_classes`` (named like images without labels,
        and those with them), ``same_folders`` (that the classes have in common), ``nested`` (images
        below class folders, `mae_sdk.data.labels.nested_folders`), ``doubtful_names`` and
        ``numbers_and_names`` (`mae_sdk.data.class_names`),
        ``unreadable_classes`` (none of whose images can be read), ``repeated``
        (`mae_sdk.data.survey.repeated_images`), ``wrapper`` (the folders around all images),
        ``encoded`` (how pictures are stored → what it is → the classes that it tells from others),
        ``split_below`` (`mae_sdk.data.labels.parts_below`).
    """
    classes, same = class_counts(source), source.same_folders()
    seen = pictures.to_dict(source.path, source.labels)
    bad_of = seen.get("unreadable", {}).pop("by_label", {})
    encoded = {} if source.several else seen.pop("encoded", {})
    seen.pop("encoded", None)
    table = getattr(source, "table", {})
    labels_from = source.labels_from
    folders = {} if table or labels_from else classes
    splits = split_folders(folders)
    by_name: dict[str, Any] = dict(mask_folders(folders) or mask_folders(same))
    parts = [*by_name.get("images", ()), *by_name.get("masks", ())]
    if len(parts) == 2 and parts != [IMAGES, MASKS] and set(parts) <= set(folders):
        by_name["command"] = mask_command(source, parts[0], parts[1])
    more = {
        "label_file": table,
        "labels_from": labels_from,
        "labels_differ": source.labels_differ(),
        "left_out": left_out(source),
        "missing_classes": source.missing_classes(),
        "split_classes": splits,
        "lone_splits": [] if splits else lone_split(folders),
        "odd_parts": odd_parts(folders),
        "made_folders": made_folders(folders),
        "loose": loose_images(source) if classes else {},
        "words_of_files": {} if classes or table else words_of_files(source.members),
        "mask_folders": by_name,
        "like_masks": {} if by_name else like_masks(source, folders),
        "masks_among": {} if by_name else masks_among(source.members),
        "unlabeled_classes": unlabeled_folders(folders),
        "same_folders": same,
        "nested": source.nested(),
        "doubtful_names": doubtful_names(classes),
        "numbers_and_names": numbers_and_names(source.classes_of_parts()),
        "unreadable_classes": [
            name
            for number, (name, count) in enumerate(classes.items())
            if bad_of.get(number) == count
        ],
        "repeated": repeated_images(source),
        "wrapper": source.wrapper,
        "encoded": {
            aspect: {
                value: [source.classes[label] for label in labels]
                for value, labels in values.items()
            }
            for aspect, values in encoded.items()
        },
        "split_below": {} if splits or not folders else source.parts_below(),
    }
    return {
        "images": len(source),
        "classes": len(classes),
        "class_counts": classes,
        "unlabelled": unlabeled(source),
        "digest": source.digest,
        **seen,
        "bad": len(pictures.bad),
        **{name: fact for name, fact in more.items() if fact},
    }


def class_counts(source: Source) -> dict[str, int]:
    """Class → images of it."""
    import numpy as np

    if isinstance(source, LabeledSource) and source.several:
        sums = source.targets(source.classes).sum(axis=0, dtype=np.int64)
        return {name: int(count) for name, count in zip(source.classes, sums, strict=True)}
    counts = np.bincount(source.labels[source.labels >= 0], minlength=len(source.classes))
    return {name: int(count) for name, count in zip(source.classes, counts, strict=True)}


def unlabeled(source: Source) -> int:
    """Images without a class, where each should have one."""
    return 0 if source.several else int((source.labels < 0).sum())


def loose_images(source: Source) -> dict[str, Any]:
    """``{"count", "files"}`` of the images without a class; empty where there are none."""
    import numpy as np

    places = np.flatnonzero(source.labels < 0)
    if source.several or not len(places):
        return {}
    return {"count": len(places), "files": [source.path(int(i)) for i in places[:FEW]]}


def left_out(source: Source) -> dict[str, Any]:
    """What else a source holds, by reason: `LeftOut.to_dict`, summed over its parts. A detector's
    labels count where they lie in a folder beside it too."""
    found: dict[str, Any] = {}
    for part in source.left_out:
        for reason, some in part.to_dict().items():
            if reason == "suffixes":
                table = found.setdefault(reason, {})
                for suffix, count in some.items():
                    table[suffix] = table.get(suffix, 0) + count
                continue
            kept = found.setdefault(reason, {"count": 0, "files": []})
            kept["count"] += some["count"]
            kept["files"] = [*kept["files"], *some["files"]][:FEW]
            if kinds := {*kept.get("kinds", ()), *some.get("kinds", ())}:
                kept["kinds"] = sorted(kinds)
    if labels := found.pop("detection_labels", None) or labels_beside(source):
        found["detection_labels"] = labels | named_classes(source)
    return found


def compare_classes(known: Sequence[str], other: Source) -> dict[str, Any]:
    """How the classes of `other`, labeled by those that are known, differ from them.

    Returns:
        ``{"known": how many, "unknown": {folder: images}, "absent": classes without an image in it,
        "unlabelled"}``; ``near``: unknown class → the known one that may be meant.
    """
    unknown = other.unknown_classes(known)
    if unknown:
        there = set(other.classes)
        return {
            "known": len(known),
            "unknown": unknown,
            "near": near_names(unknown, known),
            "absent": [name for name in known if name not in there],
            "unlabelled": 0,
        }
    _, labels = other.label(known)
    numbers = set(labels.tolist())
    if isinstance(other, LabeledSource) and other.several:
        labels = labels.clip(min=0)
        numbers = set(other.targets(known).any(axis=0).nonzero()[0].tolist())
    return {
        "known": len(known),
        "unknown": {},
        "absent": [name for number, name in enumerate(known) if number not in numbers],
        "unlabelled": int((labels < 0).sum()),
    }


_SHEET_NOTE = ("Software", "mae inspect")
"""The text in a contact sheet by which it is known from a picture of the data."""

SHEET_FILE = OutputKind(
    "a contact sheet", (".png",), lambda head: "\0".join(_SHEET_NOTE).encode() in head[:4096]
)


def write_contact_sheet(
    source: Source, path: str | os.PathLike[str], reading: Reading = DEFAULT
) -> Path:
    """A PNG of up to 8 × 6 evenly spaced images; unreadable ones are crossed out. Of more than
    three channels the first three are shown, of two the first."""
    import numpy as np
    from PIL import Image, ImageDraw, PngImagePlugin

    out = output_file(path, SHEET_FILE, "contact_sheet")
    columns = min(SHEET[0], len(source))
    places = np.unique(
        np.linspace(0, len(source) - 1, min(len(source), SHEET[0] * SHEET[1])).astype(int)
    ).tolist()
    rows = -(-len(places) // columns)
    sheet = Image.new("RGB", (columns * (TILE + 4) + 4, rows * (TILE + 4) + 4), "white")
    for number, i in enumerate(places):
        x, y = 4 + (number % columns) * (TILE + 4), 4 + (number // columns) * (TILE + 4)
        try:
            tile = Image.fromarray(as_shown(decode(source.read(i), "", reading)))
            tile.thumbnail((TILE, TILE))
            sheet.paste(tile, (x + (TILE - tile.width) // 2, y + (TILE - tile.height) // 2))
        except DataError:
            ImageDraw.Draw(sheet).line((x, y, x + TILE, y + TILE), "red", 3)
            ImageDraw.Draw(sheet).line((x + TILE, y, x, y + TILE), "red", 3)

    notes = PngImagePlugin.PngInfo()
    notes.add_text(*_SHEET_NOTE)
    with files.atomic_file(out) as temporary:
        sheet.save(temporary, "PNG", pnginfo=notes)
    return out


def _hash(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()


def _spread(values: Iterable[int]) -> dict[str, int] | None:
    ordered = sorted(values)
    if not ordered:
        return None
    return {"min": ordered[0], "median": ordered[len(ordered) // 2], "max": ordered[-1]}


def _duplicates(source: Source, hashes: dict[bytes, list[int]]) -> dict[str, Any]:
    groups = [group for group in hashes.values() if len(group) > 1]
    return {
        "count": sum(len(group) - 1 for group in groups),
        "groups": [[source.path(i) for i in group[:5]] for group in groups[:LISTED]],
    }


def _shared(source: Source, hashes: dict[bytes, list[int]], other: Source) -> dict[str, Any]:
    count = 0
    pairs: list[list[str]] = []
    for i in range(len(other)):
        try:
            twins = hashes.get(_hash(other.read(i)))
        except DataError:
            continue
        if twins:
            count += 1
            if len(pairs) < LISTED:
                pairs.append([source.path(twins[0]), other.path(i)])
    return {"count": count, "pairs": pairs}


def inspect_masks(
    images: str | os.PathLike[str] | Sequence[str],
    masks: str | os.PathLike[str] | Sequence[str] | None = None,
    *,
    role: str = "train",
    cache_dir: str | os.PathLike[str] | None = None,
    reading: Reading = DEFAULT,
    spec: Mapping[str, Any] | None = None,
    asked: Asked = ANY_RUN,
) -> dict[str, Any]:
    """Read every mask of a source once and report what it holds.

    Args:
        images, masks, role: what `open_pairs` takes.
        spec: of a segmenter, by whose classes the values are judged as its plan does; None: by what
            holds for any.
        asked: of the run for which they are judged.

    Returns:
        JSON types: ``verdict {usable, problems, warnings}, digest, images, masks, values {value:
        {"pixels": share of all, "images": count}}, without_mask, several_channels, unreadable,
        other_size {count, files}``; lists of files are bounded to 50, the counts are not. Without
        ``spec`` ``settings {dotted key: value}``: by which a training reads these values, where
        that is plain (`mae_skill.mask_meaning.first_settings`).

    Raises:
        DataError: a source is missing, empty or hostile, or there are no masks at all.
        StorageError: it could not be read.
    """
    pairs = masked_pairs(images, masks, role, cache_dir)
    found = survey_masks(pairs, None, reading)

    def mask(place: int) -> str:
        return str(pairs.mask_path(place))

    total = sum(found.pixels.values())
    report: dict[str, Any] = {
        "digest": pairs.digest,
        "images": len(pairs),
        "masks": pairs.masked,
        "values": {
            value: {
                "pixels": round(found.pixels[value] / total, 6),
                "images": found.images[value],
            }
            for value in sorted(found.pixels, key=int)
        },
        "without_mask": _named(found.without, pairs.path),
        "several_channels": {
            **_named([place for place, _ in found.channels], mask),
            "channels": sorted({mode for _, mode in found.channels}),
        },
        "unreadable": {
            "count": len(found.bad),
            "files": [f"{mask(place)}: {reason}" for place, reason in found.bad[:LISTED]],
        },
        "other_size": _named(found.other_size, mask),
    }
    facts = found.to_dict(mask)
    more = {name: facts.get(name) for name in ("permuted", "same", "pages")}
    more |= {"shared_masks": pairs.shared_masks(), "spare_masks": pairs.spare_masks()}
    more |= {"mask_names": pairs.mask_names()}
    report |= {name: fact for name, fact in more.items() if fact}
    held = {"images": len(pairs), "read": len(pairs), "mask_values": facts}
    of_spec = None if spec is None else judged_values(spec, held)
    pixels = {int(value): count for value, count in found.pixels.items()}
    if spec is None and (settings := first_settings(pixels)):
        report["settings"] = settings
    return {"verdict": judge_masks(report, len(found.unusable), of_spec, asked), **report}


def judged_values(spec: Mapping[str, Any], seen: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Problems and warnings of the values in masks, as the plan of a segmenter says them."""
    case = Case("train", spec, {}, Facts(data={TRAIN: seen}))
    mask_rules.masks(case)
    problems = [f"{error.message}; {error.hint}" for error in case.errors]
    return problems, [notice.message for notice in case.warnings]


def judge_masks(
    report: Mapping[str, Any],
    unusable: int,
    of_values: tuple[list[str], list[str]] | None = None,
    asked: Asked = ANY_RUN,
) -> dict[str, Any]:
    """Whether masks can be trained on as they are: ``{"usable", "problems", "warnings"}``.

    Args:
        unusable: masks that training cannot read, or of another size than their image.
        of_values: `judged_values`, where a spec says which are classes.
        asked: of the run for which they are judged.
    """
    problems, warnings = of_values or ([], [])
    meant = any(
        get_dotted(asked.spec, key) is not None for key in (IGNORE, REDUCE_ZERO, MASK_VALUES)
    )
    if bare := report["without_mask"]["count"]:
        problems.append(
            f"{bare} of {report['images']} images have no mask: {_first(report['without_mask'])}; "
            "add the masks, or take these images out"
        )
    if channels := report["several_channels"]["count"]:
        modes = ", ".join(report["several_channels"]["channels"])
        problems.append(
            f"{channels} of {report['masks']} masks have several channels ({modes}), not one of "
            f"class numbers: {_first(report['several_channels'])}; map the colors to class numbers "
            "once, and save one channel"
        )
    elif unusable:
        sized = [f"{file}: not as large as its image" for file in report["other_size"]["files"]]
        why = "; ".join([*report["unreadable"]["files"], *sized][:NAMED])
        text = (
            f"{unusable} of {report['masks']} masks are unreadable or not as large as their image "
            f"({why})"
        )
        above = unusable > asked.limit * report["images"]
        (problems if above else warnings).append(text)
    problem, doubts = mask_rules.doubts({**report, "read": report["masks"]}, asked.limit)
    problems += [f"{problem}: {mask_rules.ONE_PALETTE}"] if problem else []
    warnings += doubts
    values = [] if of_values else list(report["values"])
    if len(values) == 1:
        problems.append(f"every mask holds the one value {values[0]}: nothing to learn")
    elif values and not meant:
        held = {int(value): about["pixels"] for value, about in report["values"].items()}
        # Where no setting reads them, the plan of any training refuses them.
        (warnings if first_settings(held) else problems).extend(mask_rules.readings(held))
    return {"usable": not problems, "problems": problems, "warnings": warnings}


def masked_pairs(
    images: str | os.PathLike[str] | Sequence[str],
    masks: str | os.PathLike[str] | Sequence[str] | None,
    role: str,
    cache_dir: str | os.PathLike[str] | None = None,
) -> Pairs:
    """Images with their masks; some of them may lack one, not all.

    Raises:
        DataError: as `open_pairs`.
    """
    try:
        return open_pairs(images, masks, role=role, required=True, cache_dir=cache_dir)
    except DataError as error:
        pairs = open_pairs(images, masks, role=role, required=False, cache_dir=cache_dir)
        if not pairs.masked:
            raise error
        return pairs


def _first(about: Mapping[str, Any]) -> str:
    """The first of some files."""
    more = " …" if about["count"] > NAMED else ""
    return ", ".join(about["files"][:NAMED]) + more


def _named(places: Sequence[int], path: Callable[[int], str]) -> dict[str, Any]:
    return {"count": len(places), "files": [path(place) for place in places[:LISTED]]}
