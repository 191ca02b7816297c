"""Whether a train request goes through AutoML.

An explicit ``automl_policy`` wins; else the words of the request decide; else ``auto``. The choice
holds for this run only and never changes the bundle. AutoML needs the packaged schema and template
of the action: without either, or when either cannot be parsed, the run is plain and says so. So it
is where nothing is left to search, unless a search was asked for by name or given options.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from mae_skill.bundle import Bundle
from mae_skill.dotted import field_nodes
from mae_skill.errors import DependencyError, MaeError, UsageError

from mae_sdk.plan.command import fields_told
from mae_sdk.plan.search_words import OFF, ON, UNSURE, Reading, read_words

NOT_RUNNABLE = "AutoML is enabled but not runnable until schemas are generated"


@dataclass(frozen=True)
class Decision:
    """Whether AutoML runs, and why.

    `report` is the sentence to tell the user when it was wanted and cannot run, `understood` what
    was read in the words of the request. `asked`: a person asked for a search by name, so none is
    an error and no plain run.
    """

    automl: bool
    policy: str
    reason: str
    report: str | None = None
    understood: str | None = None
    asked: bool = False

    def to_dict(self) -> dict[str, Any]:
        return {
            "enabled": self.automl,
            "policy": self.policy,
            "reason": self.reason,
            "report": self.report,
            "understood": self.understood,
        }


def policy_word(value: Any) -> str:
    """``auto``, ``on`` (the same) or ``off``; YAML booleans are accepted.

    Raises:
        UsageError: any other word.
    """
    if isinstance(value, bool):
        return "auto" if value else "off"
    text = str(value).strip().lower()
    if text in ("auto", "on", "true"):
        return "auto"
    if text in ("off", "false"):
        return "off"
    raise UsageError(
        "unknown AutoML policy",
        field="automl_policy",
        got=value,
        expected="auto, on or off",
        hint="off is one run as the spec says, auto and on are a search",
    )


NO_METRIC = (
    "AutoML is enabled, but the bundle states no metric for {action}: a plain run. "
    "For a search: --automl metric=NAME:maximize or metric=NAME:minimize"
)


NOTHING_LEFT = "nothing is left to search"

PLAIN_INSTEAD = (
    "AutoML is enabled, but nothing is left to search for {action} ({why}): a plain run. For a "
    "search: --automl parameters=FIELD,FIELD; --automl-policy on makes this an error, off says "
    "nothing of it"
)


def plain_instead(action: str, why: str) -> Decision:
    """The decision for one plain run where a search by default has no parameter to vary."""
    report = PLAIN_INSTEAD.format(action=action, why=why)
    return Decision(False, "auto", NOTHING_LEFT, report)


def searched_by_default(
    schema: Mapping[str, Any], told: Collection[str] | None
) -> tuple[dict[str, Any], list[str]]:
    """A schema without the parameters of a search by default that no trial's command receives, and
    these.

    Args:
        told: the fields that the command receives; None: all.
    """
    named = [str(one) for one in schema.get("automl_default_parameters") or ()]
    left = [one for one in named if told is not None and one.partition("[")[0] not in told]
    kept = [one for one in named if one not in left]
    return ({**schema, "automl_default_parameters": kept} if left else dict(schema)), left


def is_searched(bundle: Bundle, action: str) -> bool:
    """Whether an action is ever searched: train, and any whose entry says so."""
    entry = bundle.action(action)
    if isinstance(entry.get("automl_enabled"), bool):
        return bool(entry["automl_enabled"])
    return action == "train" or bool(entry.get("metric"))


def stated_metric(bundle: Bundle, action: str) -> tuple[str, str] | None:
    """The metric and direction that an action's entry states.

    Raises:
        UsageError: its direction is no such word.
    """
    entry = bundle.action(action)
    metric, word = entry.get("metric"), entry.get("metric_direction")
    if word is None:
        return None
    direction = {"min": "minimize", "max": "maximize"}.get(str(word).lower(), str(word).lower())
    if direction not in ("minimize", "maximize"):
        raise UsageError(
            "not a direction",
            field=f"actions.{action}.metric_direction",
            got=word,
            expected="minimize or maximize",
            hint="write the direction as maximize or minimize",
        )
    return (metric, direction) if isinstance(metric, str) and metric else None


def decide(
    bundle: Bundle,
    action: str,
    automl_policy: Any = None,
    request: str | None = None,
    *,
    metric_given: bool = False,
) -> Decision:
    """Decide for one run of `action` of `bundle`.

    Args:
        metric_given: whether the options of the run name the metric of a study.

    Raises:
        UsageError: the policy word is unknown, or the words of the request leave it open.
    """
    explicit = None if automl_policy is None else policy_word(automl_policy)
    by_name = str(automl_policy).strip().lower() == "on"
    if not is_searched(bundle, action):
        return Decision(False, explicit or "auto", f"{action} is never searched")
    if not request or not request.strip():
        return replace(_decided(bundle, action, explicit, metric_given), asked=by_name)

    read = read_words(request)
    if explicit is None and read.meaning == UNSURE:
        raise UsageError(
            "the request leaves open whether a search (AutoML) is wanted",
            field="request",
            got=_quoted(read),
            expected="automl_policy=off for one run, or automl_policy=on for a search",
            hint="say which: automl_policy=off or automl_policy=on goes before the words",
        )
    if explicit is None and read.meaning == OFF:
        reason = f"turned off for this run by the request: {_quoted(read)}"
        decision = Decision(False, "off", reason)
    else:
        decision = replace(_decided(bundle, action, explicit, metric_given), asked=by_name)
    asked = decision.asked or (explicit is None and read.meaning == ON)
    return replace(decision, understood=_understood(read, decision, explicit), asked=asked)


def _quoted(read: Reading) -> str:
    return ", ".join(f"“{words}”" for words in read.words)


def _understood(read: Reading, decision: Decision, explicit: str | None) -> str:
    """What was read in the words of a request, for whoever said them."""
    outcome = "a search (AutoML)" if decision.automl else "one run, no search"
    if read.meaning is None:
        return f"the request says nothing of a search: {outcome}"
    if explicit is not None:
        return f"automl_policy goes before the request ({_quoted(read)}): {outcome}"
    wanted = (read.meaning == ON) == decision.automl
    why = "" if wanted else f", since {decision.reason}"
    return f"understood of the request: {_quoted(read)} → {outcome}{why}"


def _decided(bundle: Bundle, action: str, explicit: str | None, metric_given: bool) -> Decision:
    """What the explicit policy and the bundle decide."""
    if explicit == "off":
        return Decision(False, "off", "turned off for this run by automl_policy")
    entry = bundle.action(action)
    if not (bundle.info.get("automl_enabled") or entry.get("automl_enabled") is True):
        return Decision(False, "auto", "the bundle does not enable AutoML")
    if entry.get("mode") in ("args", "passthrough") and not _tells_of_trials(bundle, action):
        reason = f"its command (mode: {entry['mode']}) receives no parameter that trials differ in"
        return Decision(False, "auto", reason)
    for what, read in (("schema", bundle.schema), ("spec template", bundle.template)):
        try:
            if not read(action):
                raise ValueError("empty")
        except (MaeError, OSError, ValueError, KeyError) as error:
            return Decision(
                False,
                "auto",
                f"the {action} {what} is missing or cannot be parsed: {str(error).splitlines()[0]}",
                NOT_RUNNABLE,
            )
    contract = bundle.schema(action).get("automl_metrics")
    stated = bool(contract) or stated_metric(bundle, action) is not None
    if not stated and not metric_given and explicit is None:
        return Decision(
            False, "auto", "the bundle states no metric", NO_METRIC.format(action=action)
        )
    return Decision(
        True,
        "auto",
        "the bundle enables AutoML" if explicit is None else "asked for by automl_policy",
    )


def _tells_of_trials(bundle: Bundle, action: str) -> bool:
    """Whether the words of a command hold a parameter that is searched by default."""
    try:
        schema, told = bundle.schema(action), fields_told(bundle, action, bundle.template(action))
    except MaeError:
        return True  # told where they are read
    searched = set(schema.get("automl_default_parameters") or ())
    searched |= {
        key
        for key, node in field_nodes(schema).items()
        if str(node.get("automl_enabled")).lower() == "true"
    }
    return told is None or bool(told & searched)


def require_optuna() -> None:
    """Refuse an AutoML run where its engine is missing, before anything starts.

    Raises:
        DependencyError: Optuna is not installed.
    """
    import importlib.util

    if importlib.util.find_spec("optuna") is None:
        raise DependencyError(
            "AutoML needs Optuna, which is not installed",
            field="automl_policy",
            hint="pip install 'mae-skill[train]', or turn AutoML off for this run with "
            "automl_policy=off",
        )
