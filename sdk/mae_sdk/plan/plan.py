"""A plan: a job that has not been launched, everything it will be, and why."""

from __future__ import annotations

import importlib
import re
import shlex
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

from mae_skill.dotted import get_dotted
from mae_skill.errors import MaeError
from mae_skill.origin import Origin, OriginKind
from mae_skill.rules.base import Facts

from mae_sdk.automl import pruner
from mae_sdk.jobs.outputs import ParentInfo
from mae_sdk.jobs.records import Launch, StudyRecord
from mae_sdk.jobs.secrets import ENCRYPTION_REFERENCE, known, note, redact_tree, secret_settings
from mae_sdk.plan.automl_policy import Decision
from mae_sdk.plan.inferred_fields import InferredField
from mae_sdk.plan.request import Request
from mae_sdk.run.platform import Resources


@dataclass(frozen=True)
class ParentRef:
    """The parent of a planned job.

    Attributes:
        kind: of the model that it left: ``checkpoint``, ``onnx``, ``engine`` or ``none``.
        best_child_of: the AutoML job that was named, where this is its best child.
    """

    id: str
    action: str
    kind: str
    best_child_of: str | None = None

    @classmethod
    def of(cls, parent: ParentInfo | None) -> ParentRef | None:
        """The reference to a parent that was found."""
        if parent is None:
            return None
        return cls(parent.id, parent.action, parent.kind, parent.resolved_from)

    def to_dict(self) -> dict[str, str]:
        """As JSON types; what is not known is left out."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def is_counted(sources: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether a plan has counted all of these sources."""
    return all(seen.get("counted", True) for seen in sources.values())


_KEY = re.compile(r"[a-z][a-z0-9_]*(?:\.[a-z][a-z0-9_]*)+")
"""A dotted key inside a sentence."""


def _told(items: Iterable[Any]) -> list[Any]:
    """Warnings as JSON types; a bundle's rules may warn by a plain text."""
    return [item.to_dict() if hasattr(item, "to_dict") else str(item) for item in items]


def is_note(
    warning: Any,
    spec: Mapping[str, Any],
    provenance: Mapping[str, Origin],
    sources: Collection[str],
) -> bool:
    """Whether a warning is of a field, and no field that it names was set by a person (in a spec
    file, on the command line, as data): nothing that anybody wanted is called in question.

    A field without a value is a lack, of which a warning stays one; so do what is serious and what
    is said of the data, whose fields are `sources`.
    """
    field = getattr(warning, "field", None)
    if isinstance(warning, MaeError) or getattr(warning, "serious", False):
        return False
    if not field or field in sources or get_dotted(spec, field, None) is None:
        return False
    chosen = {*OriginKind.written(), OriginKind.DATA}
    written = [key for key, origin in provenance.items() if origin.kind in chosen]
    named = [field, *_KEY.findall(str(warning))]
    return not any(
        key == name or key.startswith((f"{name}.", f"{name}[")) for name in named for key in written
    )


@dataclass
class Plan:
    """A job that has not been launched: everything it will be, and why.

    Attributes:
        key: the idempotency key that `job_id` follows from: the request's, or one made for this
            plan.
        spec: the resolved spec.
        provenance: dotted key → origin.
        sources: dotted key → what is read, with counts where counted.
        inferred: the fields that inference functions filled.
        policy: whether AutoML runs, and why.
        platform_options: the settings of the platform, the site's among them.
        facts: what is known of the data and of the place where the job runs.
        study: the AutoML study, or None.
        estimates: of the bundle's estimator, with their basis.
        seconds: what the estimator says of time, from which ``estimates["time"]`` is made.
        warnings, notices: for the user; of the warnings those of settings that nobody has set are
            told as `notes`.
        references: dotted key → what was written, of fields that refer to others.
        aliases: other names of fields, which references may use.
        no_launch: why it is not launched from here, though it can be planned.
    """

    request: Request
    key: str
    job_id: str
    job_dir: str
    results_root: str
    spec: dict[str, Any]
    provenance: dict[str, Origin]
    sources: dict[str, dict[str, Any]]
    inferred: list[InferredField]
    policy: Decision
    launch: Launch
    facts: Facts
    resources: Resources
    platform_options: dict[str, Any] = field(default_factory=dict)
    parent: ParentRef | None = None
    study: StudyRecord | None = None
    estimates: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, Any] = field(default_factory=dict)
    warnings: list[Any] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    no_launch: MaeError | None = None
    stage: str | None = None
    references: dict[str, Any] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    secrets: dict[str, str] = field(default_factory=dict, repr=False)

    @property
    def action(self) -> str:
        return self.request.action

    @property
    def steps_per_epoch(self) -> int | None:
        """Optimizer steps per epoch of one training run; None where the data is not counted."""
        return self.facts.steps_per_epoch

    @property
    def nodes(self) -> int:
        """Machines that take part."""
        return self.facts.nodes

    @property
    def effective_batch(self) -> int | None:
        """Images per optimizer step of one training run, over all processes."""
        return self.facts.effective_batch

    def _is_note(self, warning: Any) -> bool:
        return is_note(warning, self.spec, self.provenance, self.sources)

    @property
    def notes(self) -> list[Any]:
        """The warnings of settings that nobody has set."""
        return [item for item in self.warnings if self._is_note(item)]

    @property
    def mappings(self) -> list[dict[str, Any]]:
        """The inferred fields as JSON types: ``field, function, value, note`` each."""
        return [
            {"field": item.field, "function": item.function, "value": item.value, "note": item.note}
            for item in self.inferred
        ]

    @property
    def automl(self) -> dict[str, Any] | None:
        """The study in brief: ``metric, knobs, left_out, max_trials, epochs`` (of a trial),
        ``pruner, concurrency, options``; None when this is no AutoML run.
        """
        if self.study is None:
            return None
        from mae_sdk.automl.options import parse
        from mae_sdk.automl.setup import spec_of_trials

        space = self.study["space"]
        center = 1 if "auto_spec" in self.study else 0
        ranges = {item["name"]: _range_text(item, center) for item in space["knobs"]}
        metric = ", ".join(
            f"{item['metric']} ({item['direction']})" for item in self.study["objectives"]
        )
        epochs = get_dotted(spec_of_trials(self.study), self.study["keys"].get("epochs", ""))
        options, metrics = parse(self.study["options"]), len(self.study["objectives"])
        return {
            "metric": metric,
            "knobs": ranges,  # a name that others read: it stays
            "left_out": space.get("left_out") or {},
            "max_trials": self.study["options"]["max_trials"],
            "epochs": epochs,
            "pruner": pruner.describe(options, metrics, epochs),
            "concurrency": self.study["concurrency"],
            "options": self.study["options"],
        }

    def to_dict(self) -> dict[str, Any]:
        """The plan as JSON types, without secrets: what ``mae plan --json`` prints."""
        document = {
            "action": self.action,
            "stage": self.stage,
            "job_id": self.job_id,
            "idempotency_key": self.key,
            "platform": self.request.platform,
            "platform_options": self.platform_options,
            "results_root": self.results_root,
            "command": shlex.join(self.launch["command"]),
            "cwd": self.launch.get("cwd"),
            "parent": self.parent.to_dict() if self.parent is not None else None,
            "policy": self.policy.to_dict(),
            "automl": self.automl,
            "sources": self.sources,
            "mappings": self.mappings,
            "nodes": self.nodes,
            "processes": self.launch["processes"],
            "effective_batch": self.effective_batch,
            "steps_per_epoch": self.steps_per_epoch,
            "estimates": self.estimates,
            "env": sorted({*self.request.env, *self.secrets}),
            "spec": self.spec,
            "provenance": {key: _origin(value) for key, value in self.provenance.items()},
            "notices": self.notices,
            "notes": _told(self.notes),
            "warnings": _told(item for item in self.warnings if not self._is_note(item)),
        }
        shown: dict[str, Any] = redact_tree(document, secret_values(self))
        return shown

    def _repr_html_(self) -> str:
        """What a notebook shows: what the job would do, at what cost, with which changes."""

        # Reports are above plans on the floor plan.
        notebook = importlib.import_module("mae_sdk.report.notebook")
        shown: str = notebook.plan_html(self.to_dict())
        return shown

    def to_python(self) -> str:
        """The short script that launches this plan through the SDK.

        Secret values are read from the environment, never printed.
        """
        request = self.request
        lines = []
        for item in fields(Request):
            value = getattr(request, item.name)
            default: Any = (
                {}
                if item.name in ("automl", "spec_overrides", "env", "platform_options", "sources")
                else "local"
                if item.name == "platform"
                else False
                if item.name == "foreign_parent"
                else None
            )
            if item.name in ("action", "skill_dir") or value is None or value == default:
                continue
            if item.name == "env":
                secret = secret_settings(value)
                items = ", ".join(
                    f"{name!r}: os.environ[{name!r}]" if name in secret else f"{name!r}: {text!r}"
                    for name, text in value.items()
                )
                lines.append(f"    env={{{items}}},")
                continue
            if item.name == "spec" and not isinstance(value, str):
                value = _without_key(value)
            lines.append(f"    {item.name}={redact_tree(value, secret_values(self))!r},")
        body = "\n".join(lines)
        imports = "import os\n\n" if "os.environ" in body else ""
        skill = f"Skill({request.skill_dir!r})" if request.skill_dir else "Skill()"
        return (
            f"{imports}from mae_sdk import Skill\n\nskill = {skill}\n"
            f"job = skill.create_job(\n    {self.action!r},\n{body}\n)\n"
            "print(job.id)\njob.wait()\nprint(job.metrics())\n"
        )

    if not TYPE_CHECKING:  # its attributes stay checked

        def __getattr__(self, name: str) -> Any:
            """What upstream's SDK calls so, answered with ours."""
            from mae_sdk.jobs.other_sdk import no_attribute

            raise no_attribute(self, name)


def _without_key(spec: Mapping[str, Any]) -> dict[str, Any]:

    return {
        name: ENCRYPTION_REFERENCE if name == "encryption_key" and value else value
        for name, value in spec.items()
    }


def _origin(origin: Origin) -> dict[str, Any]:
    return {"origin": str(origin.kind), **({"note": origin.note} if origin.note else {})}


def _range_text(parameter: Mapping[str, Any], center: int) -> str:
    """The range of a parameter in words, with its value in the trial that it lies around."""
    if parameter.get("choices"):
        return "one of " + ", ".join(str(choice) for choice in parameter["choices"])
    scale = ", log" if parameter.get("log") else ""
    step = f", step {parameter['step']}" if parameter.get("step") else ""
    bound = "".join(f", {relation}" for relation in parameter.get("relations") or ())
    ends = f"{parameter['low']:g} … {parameter['high']:g}"
    return f"{ends}{scale}{step}{bound} (trial {center}: {parameter['default']})"


def secret_values(plan: Plan) -> list[str]:
    """The secret values of the request, which nothing shows."""
    note(*plan.secrets.values(), *secret_settings(plan.request.env).values())
    return known()
