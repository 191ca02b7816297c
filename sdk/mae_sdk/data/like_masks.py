"""Two folders of files of the same names, one of which holds masks: images with their masks, which
are easily taken for two classes."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mae_skill.errors import DataError
from mae_skill.mask_meaning import MOST_LEVELS

from mae_sdk.data.decode import DEFAULT, read_header
from mae_sdk.data.masks import read_values
from mae_sdk.data.source import Source
from mae_sdk.data.survey import spread

LOOKED_AT = 6
"""Files of either folder whose values are looked at."""
SAME = 0.9
"""Share of the files that have one of their name in the other folder."""


def like_masks(source: Source, folders: Mapping[str, int]) -> dict[str, Any]:
    """``{"images", "masks", "same", "values", "command"}``: which of the two class folders of a
    source looks like the masks of the other, by names and values of files; empty where none does.

    Args:
        folders: class folder → images in it.
    """
    if len(folders) != 2 or len(source.uris) != 1 or len(source) < 4:
        return {}
    start = len(source.wrapper)
    by_folder: dict[str, dict[str, int]] = {name: {} for name in folders}
    for place, member in enumerate(source.members):
        folder, _, rest = member[start:].partition("/")
        if folder in by_folder:
            by_folder[folder][rest.rpartition(".")[0]] = place
    one, other = by_folder
    both = sorted(by_folder[one].keys() & by_folder[other].keys())
    if len(both) < max(2, SAME * max(map(len, by_folder.values()))):
        return {}
    asked = [both[place] for place in spread(len(both), LOOKED_AT)]
    held = {name: _values(source, [by_folder[name][stem] for stem in asked]) for name in by_folder}
    flat = [name for name, values in held.items() if values]
    if len(flat) != 1 or not _same_size(source, by_folder, asked):
        return {}
    masks = flat[0]
    images = other if masks == one else one
    return {
        "images": images,
        "masks": masks,
        "same": len(both),
        "values": [str(value) for value in held[masks]],
        "command": mask_command(source, images, masks),
    }


def mask_command(source: Source, images: str, masks: str) -> str:
    """The inspection that reads two folders of a source as images and their masks; empty where the
    source is no folder."""
    root = Path(source.uris[0])
    if len(source.uris) != 1 or not root.is_dir():
        return ""
    named = [shlex.quote(str(root / f"{source.wrapper}{name}")) for name in (images, masks)]
    return f"mae inspect {named[0]} --masks {named[1]}"


def _values(source: Source, places: Sequence[int]) -> list[int]:
    """The values of files that may be masks, which have few each; empty where they are none."""
    import numpy as np

    found: set[int] = set()
    for place in places:
        try:
            values = np.unique(read_values(source.read(place), source.members[place]))
        except DataError:  # of several channels, a JPEG, or unreadable
            return []
        if len(values) > MOST_LEVELS:
            return []
        found |= set(values.tolist())
    return sorted(found) if len(found) > 1 else []


def _same_size(
    source: Source, by_folder: Mapping[str, Mapping[str, int]], stems: Sequence[str]
) -> bool:
    try:
        for stem in stems:
            places = [folder[stem] for folder in by_folder.values()]
            sizes = {
                read_header(source.read(one), source.members[one], DEFAULT)[0] for one in places
            }
            if len(sizes) > 1:
                return False
    except DataError:
        return False
    return True
