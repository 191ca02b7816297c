"""Where a value of a spec comes from. The standard library only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum


class OriginKind(Enum):
    """The layers that a value can come from, lowest first, with the words that users read."""

    DEFAULT = "default"
    TEMPLATE = "template"
    RECIPE = "recipe"
    SPEC_FILE = "spec file"
    PARENT = "inherited"
    DATA = "argument"
    SHORTHAND = "shorthand"
    OVERRIDE = "override"
    INFERRED = "inferred"

    def __str__(self) -> str:
        return self.value

    @classmethod
    def unset(cls) -> frozenset[OriginKind]:
        """The layers of values that nobody chose."""
        return frozenset({cls.DEFAULT, cls.TEMPLATE})

    @classmethod
    def written(cls) -> frozenset[OriginKind]:
        """The layers that a person writes field by field."""
        return frozenset({cls.SPEC_FILE, cls.SHORTHAND, cls.OVERRIDE})

    @classmethod
    def set_for_this_run(cls) -> frozenset[OriginKind]:
        """All layers but defaults, and settings that come as a whole: a recipe's, a parent's."""
        return frozenset(cls) - cls.unset() - {cls.RECIPE, cls.PARENT}


@dataclass(frozen=True)
class Origin:
    """Where a value comes from.

    ``kind`` is the layer; ``note`` says how the value was converted or moved, if it was.
    """

    kind: OriginKind
    note: str | None = None

    def __str__(self) -> str:
        return f"{self.kind} ({self.note})" if self.note else str(self.kind)

    @property
    def by_auto_recipe(self) -> bool:
        """Whether the auto recipe chose the value, for this run or for the job whose spec it is."""
        if self.kind is OriginKind.SPEC_FILE:
            return self.note == BY_AUTO_RECIPE
        return self.kind is OriginKind.RECIPE and bool(self.note)  # its rule


BY_AUTO_RECIPE = "the auto recipe's, of the job whose spec it is"
"""What is said of a value in a file that nobody wrote by hand."""


def is_explicit(provenance: Mapping[str, Origin], name: str) -> bool:
    """Whether somebody set a field; a list or section is set when any part of it is."""
    return any(
        origin.kind not in OriginKind.unset()
        for key, origin in provenance.items()
        if key == name or key.startswith((f"{name}.", f"{name}["))
    )
