"""Which of several jobs is best, whether the difference is real, and in what the jobs differ.

Jobs are ranked by one figure that they report on the same images; the others are named, with the
reason why they are not compared.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from mae_skill.dotted import flatten
from mae_skill.spelling import and_more

from mae_sdk.jobs import records
from mae_sdk.jobs.intervals import ALPHA, Gap, corrected, p_value
from mae_sdk.jobs.judged_on import images_of
from mae_sdk.jobs.metrics import HEADLINES, mapping
from mae_sdk.report import first_screen
from mae_sdk.report.blocks import Block, Table, Text
from mae_sdk.report.compare import (
    Pair,
    Value,
    apart_in,
    best_trial,
    gap_of,
    measured,
    of_images,
    place_of,
)
from mae_sdk.report.facts import Facts, base, facts_of, parents, shown
from mae_sdk.report.markup import together
from mae_sdk.report.words import named

MAX_TOLD = 4
"""Jobs that the sentence compares with the best one; the table has all."""
MAX_NAMED = 3
"""Fields that the name of a job shows."""
MAX_FIELDS = 30
"""Fields of the table."""
_ROUNDING = 1e-6


@dataclass(frozen=True)
class Entry:
    """A job, and what is measured of it: of a study its best trial."""

    facts: Facts
    judged: Facts
    values: Mapping[str, Value]


@dataclass(frozen=True)
class Ranking:
    """Jobs that report one figure on the same images, the best first.

    Attributes:
        left: why each other job is not among them, by its id.
    """

    metric: str
    downwards: bool
    members: list[Entry]
    left: Mapping[str, str]

    def value(self, place: int) -> Value:
        return self.members[place].values[self.metric]

    @cached_property
    def gaps(self) -> dict[tuple[int, int], Gap]:
        """Of every two, by their places; empty where the figure is no share of images."""
        found = {}
        for one, other in itertools.combinations(range(len(self.members)), 2):
            pair = Pair(self.members[one].judged, self.members[other].judged)
            between = gap_of(pair, self.metric, self.value(one), self.value(other))
            if between is None:
                return {}
            found[one, other] = between
        return found

    @cached_property
    def p(self) -> dict[tuple[int, int], float]:
        """The p of every two, corrected for all of them."""
        return corrected({pair: one.p for pair, one in self.gaps.items()})

    def is_told(self, place: int) -> bool:
        """Whether the images tell a job from the best."""
        return self.gaps[0, place].is_told and self.p[0, place] < ALPHA

    def is_equal(self, place: int) -> bool:
        one, other = self.value(0)[0], self.value(place)[0]
        return math.isclose(one, other, rel_tol=_ROUNDING)


# ------------------------------------------------------------------ which is best


def ranking_of(line: Sequence[Facts]) -> Ranking | None:
    """The ranking of the most jobs that one figure compares; None where none compares two."""
    entries = []
    for facts in line:
        judged = best_trial(facts)
        entries.append(Entry(facts, judged, measured(judged).values))
    chosen: tuple[tuple[int, int], str, list[Entry]] | None = None
    for metric, group in itertools.chain.from_iterable(
        ((metric, group) for group in _groups(entries, metric)) for metric in _metrics(entries)
    ):
        evaluations = sum(one.facts.action == "evaluate" for one in group)
        # Equally many: the earlier figure, and that of evaluations.
        if len(group) > 1 and (chosen is None or (len(group), evaluations) > chosen[0]):
            chosen = (len(group), evaluations), metric, group
    if chosen is None:
        return None

    _, metric, group = chosen
    downwards = _direction(metric, group[0]) == "minimize"
    group.sort(key=lambda one: one.values[metric][0], reverse=not downwards)
    left = {one.facts.id: _why_not(metric, group[0], one) for one in entries if one not in group}
    return Ranking(metric, downwards, group, left)


def _metrics(entries: Sequence[Entry]) -> list[str]:
    """Figures that may rank jobs: what evaluations are headed by, then what a study may search."""
    of_contract = [str(one.get("metric")) for one in Pair(*[entries[0].judged] * 2).contract]
    names = dict.fromkeys([*HEADLINES, *of_contract])
    # More rank is not simply better; a loss on the training images says nothing of others.
    return [one for one in names if one != "rankme" and not one.startswith("train_")]


def _direction(metric: str, entry: Entry) -> str:
    """Whether more of a figure is better, as the job says, else its bundle."""
    judged = entry.judged
    contract = {str(one.get("metric")): one for one in Pair(judged, judged).contract}
    for about in (judged.about.get(metric), contract.get(metric)):
        if word := mapping(about).get("direction"):
            return str(word)
    return "minimize" if metric.endswith("loss") else "maximize"


def _groups(entries: Sequence[Entry], metric: str) -> list[list[Entry]]:
    """The jobs that report a figure, those together whose figures compare."""
    groups: list[list[Entry]] = []
    for entry in entries:
        if _not_known(metric, entry):
            continue
        for group in groups:
            if not apart_in(Pair(group[0].judged, entry.judged), metric):
                group.append(entry)
                break
        else:
            groups.append([entry])
    return groups


def _not_known(metric: str, entry: Entry) -> str:
    """Why nothing can be said of a job's figure; empty where it can."""
    if entry.facts.state != records.COMPLETE:
        return f"the state is {entry.facts.state}"
    if metric not in entry.values:
        return f"no {named(metric)} is reported"
    if of_images(metric) and images_of(entry.judged.sources, metric) is None:
        return "on which images it was judged is not known"
    return ""


def _why_not(metric: str, best: Entry, entry: Entry) -> str:
    why = _not_known(metric, entry) or apart_in(Pair(best.judged, entry.judged), metric)
    return why.rstrip(".")


# ------------------------------------------------------------------ in what they differ


@dataclass(frozen=True)
class Differences:
    """The fields in which jobs differ.

    Attributes:
        values: field → job → its value, in words.
        where: whose fields they are.
    """

    values: Mapping[str, Mapping[str, str]]
    where: str

    def name(self, job: str) -> str:
        """A job's own values in a few words: ``lr 0.002``; empty where nothing differs."""
        keys = list(self.values)
        last = [key.rpartition(".")[2] for key in keys]
        said = [
            f"{word if last.count(word) == 1 else key} {shown(self.values[key][job], 24)}"
            for key, word in zip(keys, last, strict=True)
        ]
        more = len(said) - MAX_NAMED
        return ", ".join([*said[:MAX_NAMED], *([f"{more} more"] if more > 0 else [])])

    def table(self, line: Sequence[Facts]) -> Table | None:
        """The fields as rows, the jobs as columns."""
        if not self.values:
            return None
        rows = [
            [key, *(of[facts.id] for facts in line)]
            for key, of in list(self.values.items())[:MAX_FIELDS]
        ]
        count = len(self.values)
        caption = f"In what {self.where} differ: "
        caption += "1 field" if count == 1 else f"{count} fields"
        caption += f", the first {MAX_FIELDS}" if count > MAX_FIELDS else ""
        return Table(["field", *(facts.id for facts in line)], rows, caption)


def differences(line: Sequence[Facts]) -> Differences:
    """The fields that differ between the trainings behind jobs, and of jobs of one action those of
    their own besides."""
    trained = [_training(facts) for facts in line]
    found: dict[str, dict[str, str]] = {}
    known = [one for one in trained if one is not None]
    others = len({one.id for one in known}) > 1
    if len(known) == len(line) and others:
        found |= _differing([facts.id for facts in line], [one.spec for one in known])

    own = {facts.action for facts in line}
    if len(own) == 1 and own != {"train"}:
        # Which file of its training a job took says nothing beside the training.
        hidden = {f"{action}.checkpoint" for action in own} if others else set()
        of_jobs = _differing([facts.id for facts in line], [facts.spec for facts in line])
        found |= {k: v for k, v in of_jobs.items() if k not in found and k not in hidden}
    return Differences(found, "the trainings" if own != {"train"} and others else "the jobs")


def _training(facts: Facts) -> Facts | None:
    """The training that a job's model comes from, of a study its best trial; None where it is not
    there."""
    line = [one for one in parents(facts.job) if one.record["action"] == "train"]
    return best_trial(facts_of(line[-1])) if line else None


def _differing(ids: Sequence[str], specs: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    flat = [flatten(one) for one in specs]
    found = {}
    keys = {key for one in flat for key in one} - {"results_dir"}
    for key in sorted(keys, key=lambda key: (_telling(key), key)):
        values = [one.get(key) for one in flat]
        if any(one != values[0] for one in values[1:]):
            found[key] = {name: _short(one) for name, one in zip(ids, values, strict=True)}
    return found


_TELLING = (
    *("model.arch", "train.pretrained_model_path", "train.optim.lr", "train.num_epochs"),
    *("dataset.train_data_sources", "dataset.batch_size", "dataset.augmentation.input_size"),
)
"""What people vary, in the order in which it says most of a training."""
_FOLLOWING = ("dataset.augmentation.mean", "dataset.augmentation.std")
"""What is measured, and differs wherever the data do."""


def _telling(key: str) -> int:
    """The place of a field among those that differ."""
    if key in _TELLING:
        return _TELLING.index(key)
    return len(_TELLING) + (key in _FOLLOWING)


def _short(value: Any) -> str:
    """A value of a spec; of a path its last two parts."""
    is_path = isinstance(value, str) and "/" in value
    return shown(base(value) if is_path else value, 80)


# ------------------------------------------------------------------ in words


def sentence(ranking: Ranking | None, differ: Differences, line: Sequence[Facts]) -> str:
    """Which job is best by what, and whether each other one is told apart from it."""
    if len(line) < 2:
        return "One job alone: name two or more to compare them."
    if ranking is None:
        said = [f"None is called best: {_nothing_compares(line)}", *_evaluations(line)]
        return " ".join(said)
    said = [_best(ranking, differ)]
    told = [_against(ranking, place, differ) for place in range(1, len(ranking.members))]
    said += told[:MAX_TOLD]
    if len(told) > MAX_TOLD:
        said.append(f"{len(told) - MAX_TOLD} more are in the table.")
    if len(ranking.p) > 1:
        said.append(
            f"Among several models chance makes one the best, so p is corrected for all "
            f"{len(ranking.p)} pairs."
        )
    reasons: dict[str, list[str]] = {}
    for job, why in ranking.left.items():
        reasons.setdefault(why, []).append(job)
    said += [f"Not compared: {and_more(jobs, 3)}, since {why}." for why, jobs in reasons.items()]
    said += _evaluations(line)
    return together(" ".join(said))


def _nothing_compares(line: Sequence[Facts]) -> str:
    first, second = (best_trial(facts) for facts in line[:2])
    shared = [one for one in measured(first).values if one in measured(second).values]
    ranked = [one for one in HEADLINES if one in shared] or shared
    why = apart_in(Pair(first, second), ranked[0]) if ranked else ""
    if not why and any(one.startswith("train_") for one in shared):
        why = (
            "their training losses say nothing of other images. Evaluate each on one held-out set."
        )
    return why or "no two of the jobs report the same figure on the same images."


def _evaluations(line: Sequence[Facts]) -> list[str]:
    """Of trainings that were all evaluated, that their evaluations are to be compared."""
    judges = [facts.judges for facts in line if facts.action == "train"]
    if len(judges) < len(line) or not all(judges):
        return []
    names = " ".join(of_one[-1].id for of_one in judges)
    return [f"They were evaluated: mae report {names}{line[0].root_flag} compares that."]


def _who(entry: Entry, differ: Differences) -> str:
    name = differ.name(entry.facts.id) if differ.values else ""
    return f"{entry.facts.id} ({name})" if name else entry.facts.id


def _best(ranking: Ranking, differ: Differences) -> str:
    entry = ranking.members[0]
    metric, (_, images) = ranking.metric, ranking.value(0)
    seen = images_of(entry.judged.sources, metric)
    where = ""
    if seen is not None:
        held = " held out of " in seen.words  # which says how many
        where = (
            f", on the same {'' if held else f'{images:,} images of ' if images else 'images of '}"
        )
        where += place_of(seen)
    text = f"Best by {named(metric)}{where}: {_who(entry, differ)} with {_figure(ranking, 0)}"
    if entry.judged.doubts:
        text += f"; it is in doubt: {entry.judged.doubts[0].partition(':')[0]}"
    if first_screen.chose(entry.judged) or entry.judged.action == "train":
        text += "; these images chose the checkpoint, on others expect less"
    return f"{text}.{_verdict(ranking)}"


def _verdict(ranking: Ranking) -> str:
    """From how many of the others the images tell the best one."""
    others = range(1, len(ranking.members))
    if not ranking.gaps:
        return ""
    told = sum(ranking.is_told(place) for place in others)
    if len(others) == 1:
        return f" The other is {'' if told else 'not '}told apart from it."
    if told == len(others):
        return f" {'Both' if told == 2 else f'All {told}'} others are told apart from it."
    verb = "is" if told < 2 else "are"
    return f" {told or 'None'} of the {len(others)} others {verb} told apart from it."


def _figure(ranking: Ranking, place: int, *, short: bool = False) -> str:
    """``83.3 % (20 of 24; 95 %: 64.1 % to 93.3 %)``; short: without the interval."""
    metric, (value, images) = ranking.metric, ranking.value(place)
    told = first_screen.told(metric, value, images)
    judged = ranking.members[place].judged
    span = first_screen.uncertainty(judged, metric, value, images)
    inside = [f"{round(value * images):,} of {images:,}"] if images else []
    if span.startswith("95 %") and not short:
        inside.append(span.partition(" (")[0])
    return f"{told} ({'; '.join(inside)})" if inside else told


def _against(ranking: Ranking, place: int, differ: Differences) -> str:
    """How a job differs from the best, and whether the images tell the two apart."""
    who = _who(ranking.members[place], differ)
    if not ranking.gaps:
        if ranking.is_equal(place):
            return f"{who} has the same."
        return (
            f"{who} has {_figure(ranking, place)}, {_away(ranking, place).lstrip('+-')} from it: "
            "whether that is more than chance is not known; repeat both with other seeds."
        )
    if ranking.is_equal(place):
        return f"{who} has the same share: the two cannot be told apart."
    between = ranking.gaps[0, place]
    gap, low, high = (100 * one for one in (between.value, between.low, between.high))
    side = "below" if gap > 0 else "above"
    if gap < 0:
        gap, low, high = -gap, -high, -low
    text = f"{who} with {_figure(ranking, place, short=True)} is {gap:.1f} points {side} "
    text += f"(95 %: {low:.1f} to {high:.1f}): "
    text += "told apart" if ranking.is_told(place) else "cannot be told apart"
    test = "exact McNemar" if between.pairs is not None else "as if on different images"
    return f"{text} ({test} {p_value(between.p)}{_after(ranking, place)})."


def _away(ranking: Ranking, place: int) -> str:
    """How far a job lies from the best, with its sign."""
    away = ranking.value(place)[0] - ranking.value(0)[0]
    of_share = first_screen.told(ranking.metric, *ranking.value(0)).endswith("%")
    return f"{100 * away:+.1f} points" if of_share else f"{away:+.4g}"


def _after(ranking: Ranking, place: int) -> str:
    """The corrected p, where there are several pairs."""
    if len(ranking.p) < 2:
        return ""
    after = p_value(ranking.p[0, place]).removeprefix("p = ").removeprefix("p ")
    if ranking.gaps[0, place].is_told and not ranking.is_told(place):
        return f"; alone it would be, corrected for {len(ranking.p)} pairs it is not: {after}"
    return f", corrected {after}"


def blocks(ranking: Ranking | None, differ: Differences, line: Sequence[Facts]) -> list[Block]:
    """The table of the ranking, what it does not say, and the table of what differs."""
    found: list[Block] = []
    if ranking is not None:
        found += [_table(ranking, differ), *_limits(ranking)]
    if (table := differ.table(line)) is not None:
        found.append(table)
    else:
        found.append(Text("No field differs between the specs of these jobs.", "note"))
    return found


def _table(ranking: Ranking, differ: Differences) -> Table:
    rows: list[list[Any]] = []
    for place, entry in enumerate(ranking.members):
        row = [_who(entry, differ), together(_figure(ranking, place)), "–", "–", "–"]
        if place and ranking.gaps:
            between = ranking.gaps[0, place]
            row[2] = (
                f"{_away(ranking, place)} ({-100 * between.high:+.1f} to {-100 * between.low:+.1f})"
            )
            row[3] = p_value(ranking.p[0, place]).removeprefix("p = ").removeprefix("p ")
            row[4] = "told apart" if ranking.is_told(place) else "cannot be told apart"
        elif place:
            row[2] = _away(ranking, place)
        rows.append(row)
    p = "p" if len(ranking.p) < 2 else f"p, corrected for {len(ranking.p)} pairs"
    head = ["job", named(ranking.metric), "from the best", p, "apart"]
    return Table(head, rows, "The best first", (3,), marked=(0,), stacked=True)


def _limits(ranking: Ranking) -> list[Block]:
    """By what the jobs were compared, and what that does not say."""
    if not ranking.gaps:
        return []
    paired = [one.pairs is not None for one in ranking.gaps.values()]
    said = []
    if any(paired):
        said.append(
            "The answers to each image are compared: McNemar's exact test, Newcombe's interval for "
            "pairs, widened to the test's own."
        )
    if not all(paired):
        which = "Where" if any(paired) else "Here"
        said.append(
            f"{which} the answers to each image are not kept{'' if any(paired) else ':'} "
            "shares are compared as if they were of different images (Newcombe), which finds less. "
            "An evaluation of each model on one set keeps them."
        )
    if len(ranking.p) > 1:
        said.append("p is corrected by Holm's steps with Shaffer's counts; the intervals are not.")
    said.append("All this is of the images: another train.seed may move each model too.")
    return [Text(" ".join(said), "note")]
