"""What a rule is, what it looks at, and what it leaves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mae_skill.dotted import get_dotted
from mae_skill.errors import MaeError, SpecError
from mae_skill.origin import Origin, OriginKind


@dataclass(frozen=True)
class Notice:
    """A warning: nothing is refused, but the user should know.

    Attributes:
        field: the dotted key, where there is one.
        note: it only says what will be done; no warning.
        serious: the run may fail, or teach nothing: also of a field that nobody has set it is no
            note, as other warnings of such fields are.
    """

    field: str | None
    message: str
    note: bool = False
    serious: bool = False

    def __str__(self) -> str:
        return f"{self.field}: {self.message}" if self.field else self.message

    def to_dict(self) -> dict[str, Any]:
        """``{"field", "message"}``."""
        return {"field": self.field, "message": self.message}


@dataclass(frozen=True)
class Facts:
    """What the caller knows beside the spec. None means unknown: rules that need it are skipped.

    Attributes:
        gpus: GPUs that the run can see.
        images: images counted in the data of the action, less those held out.
        classes: classes counted there; 0 when the images have no labels.
        effective_batch: images per optimizer step, over all processes.
        steps_per_epoch: optimizer steps per epoch.
        device: the first GPU's name, or ``cpu``.
        cores: CPU cores that the run may use.
        processes: of one node, which share its cores where they compute on a CPU.
        nodes: machines that take part, with as many processes each.
        judged: images that the action reads without training on them: of a validation, an
            evaluation or an inference.
        machine: whose GPUs and cores these are, in words.
        local_files: the run happens on this machine, so the files that it names must be here.
        mounts: folders that are mounted where the run happens; what is in them need not be here.
        variables: names of the variables that the run's environment holds.
        data: dotted key of a source → what was seen in it (`mae_sdk.plan.data.look_at`).
        model: what the file of the model that the action takes says of itself.
        refused: fields, of data above all, that have an error already.
    """

    gpus: int | None = None
    images: int | None = None
    classes: int | None = None
    effective_batch: int | None = None
    steps_per_epoch: int | None = None
    device: str | None = None
    cores: int | None = None
    processes: int | None = None
    nodes: int = 1
    judged: int | None = None
    machine: str = "this machine"
    local_files: bool = False
    mounts: tuple[str, ...] = ()
    variables: frozenset[str] | None = None
    data: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    model: Mapping[str, Any] = field(default_factory=dict)
    refused: frozenset[str] = frozenset()

    def must_be_here(self, path: str) -> bool:
        """Whether a path that the run reads must be on this machine."""
        place = Path(path).expanduser().absolute()
        return self.local_files and not any(place.is_relative_to(one) for one in self.mounts)


@dataclass
class Case:
    """A spec under examination: ``case("train.stage")`` is the value of a field."""

    action: str
    spec: Mapping[str, Any]
    provenance: Mapping[str, Origin]
    facts: Facts
    errors: list[MaeError] = field(default_factory=list)
    warnings: list[Notice] = field(default_factory=list)

    def __call__(self, key: str, default: Any = None) -> Any:
        return get_dotted(self.spec, key, default)

    def origin(self, key: str) -> OriginKind | None:
        """The layer that a value comes from; None where nobody recorded it."""
        origin = self.provenance.get(key)
        return origin.kind if origin is not None else None

    def given(self, key: str) -> bool:
        """Whether somebody set the field for this run."""
        return self.origin(key) in OriginKind.set_for_this_run() and not self.by_auto_recipe(key)

    def by_auto_recipe(self, key: str) -> bool:
        """Whether the auto recipe chose the value: nobody is to be warned of it."""
        origin = self.provenance.get(key)
        return origin is not None and origin.by_auto_recipe

    def known(self, key: str) -> bool:
        """Whether the spec's value is the one that counts.

        A trained model brings its own where the spec has a mere default.
        """
        return self.action == "train" or self.origin(key) not in OriginKind.unset()

    def error(
        self,
        key: str,
        message: str,
        expected: str,
        hint: str,
        kind: Callable[..., MaeError] = SpecError,
    ) -> None:
        """Refuse the value of a field: what is wrong, what was expected, and how to mend it."""
        got = "null" if self(key) is None else self(key)
        self.errors.append(kind(message, field=key, got=got, expected=expected, hint=hint))

    def warn(self, key: str | None, message: str, *, serious: bool = False) -> None:
        """Say what the user should know; `serious` as of a `Notice`."""
        self.warnings.append(Notice(key, message, serious=serious))


@dataclass(frozen=True)
class Rule:
    """A check of a case, for some actions; no actions: for every one."""

    check: Callable[[Case], None]
    actions: tuple[str, ...] = ()

    def __call__(self, case: Case) -> None:
        if not self.actions or case.action in self.actions:
            self.check(case)
