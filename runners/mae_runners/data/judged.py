"""The data of a run, judged before anything is trained on them: by the rules that a plan goes by,
so that a job that nobody planned, or planned elsewhere, ends as a plan would."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mae_sdk.plan.data import held_share, look_at_all, said_of_model, shown_of
from mae_skill.bundle import Bundle
from mae_skill.errors import MaeError
from mae_skill.resolve import raise_all
from mae_skill.rules import samples
from mae_skill.rules.base import Case, Facts
from mae_skill.rules.seen import TRAIN

if TYPE_CHECKING:
    from mae_skill.spec import ExperimentSpec

    from mae_runners.context import RunContext


def judge(action: str, spec: ExperimentSpec, context: RunContext) -> None:
    """Look at the data of an action; what was seen goes to ``context.data``, and from there into
    ``status.json`` and ``result.json``.

    What a plan on this machine has seen is not read again. Rank 0 looks for all.

    Raises:
        DataError, StorageError: the data cannot be read, or the result would mean nothing.
    """
    bundle = Bundle.load()
    rows = (bundle.info.get("data_sources") or {}).get(action) or {}
    if not context.is_main or not rows:
        return
    plain: dict[str, Any] = spec.model_dump(mode="json")
    problems: list[MaeError] = []
    share = held_share(bundle.schema(action), plain)
    seen = look_at_all(action, rows, plain, problems, remote=True, share=share)
    raise_all(problems, action)

    train = seen.get(TRAIN) or {}
    facts = Facts(classes=train.get("classes"), data=seen, model=said_of_model(action, plain))
    case = Case(action, plain, context.provenance, facts)
    for rule in samples.RULES:
        rule(case)
    raise_all(case.errors, action)

    said = [str(warning) for warning in case.warnings if not warning.note]  # which a plan says
    for text in said:
        if text not in context.warnings:
            context.warn(text)
    shown = {key: shown_of(found) for key, found in seen.items()}
    context.data = {"sources": shown, "warnings": said}
    if said:
        context.status.running("what was seen in the data", data={"warnings": said})
