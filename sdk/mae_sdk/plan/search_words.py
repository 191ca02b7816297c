"""What a person's own words say of a search: one is wanted, none is wanted, or nothing is said.

`KINDS` and `RULES` are the whole table. A rule is a row of words; a name in capitals stands for any
word of that kind, ``A..B`` allows small words between A and B. A negation in front of a rule turns
it round ("do not turn off AutoML"). Where the words contradict each other, ask, or hold a negation
that no rule explains, they are unsure: whoever asked has to say which. So are words that stand
beside "AutoML" and are not known there: they may want the opposite ("AutoML raus").
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

ON, OFF, UNSURE = "on", "off", "unsure"
BARE = "bare"
"""AutoML is named, and no rule says what of it: it is wanted if the words beside it are known."""
NAMED = "named"
"""A search is named and nothing more: beside other words that want none, that is unsure."""

# Kind → its words, as alternatives of a regular expression over the text that `_plain` gives.
KINDS = {
    # Words that mean a search of parameters wherever they stand.
    "AUTOML": "automl|hpo|optuna|hyperparametersuche|"
    "tuning of (?:the )?(?:hyperparameter|parameters?)|"
    "(?:hyperparameter|parameters?|params?|hp|grid|random|bayesian|lr|learning rate) "
    "(?:search|searches|searching|sweeps?|sweeping|tuning|optimi[sz]ation|exploration)",
    # Words that mean one only beside a word of the kinds below.
    "SEARCH": "search|searches|searching|sweeps?|sweeping|tuning|study|trials|suche(?! nach)",
    "TUNE": "tune|autotune|sweep (?:over|through|the|some|a few|lr|learning)|"
    "(?:search|optimi[sz]e|vary|explore|tweak|change|touch|play with)(?: over| for)?"
    "(?: (?:the|any|other|better|best|good|optimal|all))* "
    "(?:hyperparameter|parameters?|settings?|learning rates?|lr|configurations?)",
    "NO": "no|non|without|skip|skipping|minus|omit|omitting|drop|forget|avoid|avoiding|forgo|"
    "leave out|leaving out|instead of|rather than|not|never|no need (?:for|of)|"
    "(?:no|not have(?: the| any| enough)?) (?:time|money|budget|patience) for|"
    "ohne|kein|keine|keinen|sans|pas de?|sin|senza|sem|zonder|geen|utan|bez",
    "STOP": "disable|disabled|disabling|(?:turn|turned|turning|switch|switched|switching|shut) off|"
    "deactivate|deactivated|hold off on|hold off",
    "FLIP": "turn|turned|turning|switch|switched|leave|keep|have|set|shut|put|with",
    "AWAY": "off|out|disabled|false|aside|aus|weg",
    "NEEDLESS": "not (?:needed|required|necessary|wanted|used|on)|unnecessary|unneeded|unwanted|"
    "disabled|off|false|none|no|aus|ausgeschaltet|abgeschaltet|deaktiviert|ausschalten|"
    "abschalten|deaktivieren|weglassen",
    "DO": "use|using|run|running|do|doing|start|starting|want|need|perform|try|launch|apply|"
    "bother with|bother|like|make|spend (?:time|money|hours) on|go for|enable|include|have|require",
    "LET": "use|using|with|run|do|start|want|need|perform|try|launch|apply|enable|enabled|turn on|"
    "switch on|include|go for|like|please|make|plus|keep",
    "ONE": "one|1|single|lone",
    "ONLY": "just|only|simply|merely|nur einfach|einfach nur|nur",
    "TRAIN": "train|training|run|trainieren|trainiere|trainier",
    "PLAINLY": "plainly|as is|as it is|as given|as specified|one time|a single time|"
    "once(?! (?:the|it|you|this|that|i|we|they|all|data|everything|my|our|a)\\b)",
    # Small words between a word and the one that it goes with.
    "SMALL": "the|a|an|any|all|more|further|kind of|sort of|using|doing|running|starting|use of|"
    "your|this|that|such|of|expensive|costly|lengthy|long|short|small|quick|wide|full|some|extra|"
    "additional|fancy|automatic|silly|whole|to|for|use|run|do|doing|it with|with|by|"
    "is|are|was|be|should|would|policy|mode|set|now|please|bitte",
}

# (what it means, the row of words). A row that stands earlier wins over one that it overlaps.
RULES = (
    (OFF, "STOP..AUTOML"),
    (OFF, "STOP..SEARCH"),
    (OFF, "FLIP..AUTOML AWAY"),
    (OFF, "FLIP..SEARCH AWAY"),
    (OFF, "AUTOML..NEEDLESS(?! (?:(?:the|a|any) )?(?:AUTOML|SEARCH|TUNE))"),
    (OFF, "AUTOML STOP"),
    (OFF, "SEARCH..NEEDLESS(?! (?:(?:the|a|any) )?(?:AUTOML|SEARCH|TUNE))"),
    (OFF, "SEARCH STOP"),
    (OFF, "not DO..AUTOML"),
    (OFF, "not DO..SEARCH"),
    (OFF, "not DO to TUNE"),
    (OFF, "no need to TUNE"),
    (OFF, "nothing to TUNE"),
    (OFF, "no need to DO..AUTOML"),
    (OFF, "no need to DO..SEARCH"),
    (OFF, "not TUNE"),
    (OFF, "not search(?:ing)?"),
    (OFF, "never TUNE"),
    (OFF, "never search"),
    (OFF, "NO..AUTOML"),
    (OFF, "NO..SEARCH"),
    (OFF, "stop..AUTOML(?! (?:after|at|when|once|as|early|before|by|on))"),
    (OFF, "(?:0|zero) trials"),
    (OFF, "fixed hyperparameter"),
    (OFF, "(?:keep|leave) (?:the |my |all )*hyperparameter (?:fixed|alone|as|constant|unchanged)"),
    (OFF, "(?:plain|vanilla|straightforward|ordinary) TRAIN"),
    (OFF, "TRAIN(?: (?:it|this|them|that|one|the model|a model|everything))? PLAINLY"),
    (
        OFF,
        (
            "ONE(?: (?:plain|simple|training|ordinary|normal|vanilla|straightforward))* "
            "(?:TRAIN|trial)"
        ),
    ),
    (OFF, "ONLY(?: (?:do|to|please|go and))? (?:train|run|trainieren)"),
    (OFF, "(?:train|run)(?: it| this)? ONLY once"),
    (OFF, "TRAIN(?: ONLY)?(?: a)? ONE model(?! per| for each| each)"),
    (ON, "LET..SEARCH"),
    (ON, "[0-9]+ trials"),
    (ON, "trials [0-9]+"),
    (ON, "(?:some|several|many|few|more|two|three|four|five|six|eight|ten|twenty) trials"),
    (ON, "TUNE"),
    (BARE, "AUTOML"),
    (NAMED, "SEARCH"),
)

# Words of the table in phrases that speak of something else. They are taken out first.
ELSEWHERE = (
    "fine tun(?:e|es|ed|ing)",
    (
        "search (?:results?|engines?|terms?|quer(?:y|ies)|history|logs?|index|images?|pages?|box|"
        "and rescue|part(?:y|ies)|warrants?|lights?|dogs?|folders?)"
    ),
    (
        "(?:image|similarity|web|text|visual|neighbou?r|vector|google|bing|semantic|strip|body|job|"
        "string|product) search(?:es)?"
    ),
    (
        "search(?:ing)? (?:for|in|through|the)"
        "(?! (?:(?:the|any|better|best|good|optimal|other|all) )*"
        "(?:hyperparameter|parameter|setting|learning|lr|configuration))"
    ),
    "tuning (?:forks?|pegs?)",
    "(?:clinical|court|field|time|bike|medical|crop|yield) trials?",
    "(?:case|user|field|clinical|pilot|medical|cohort|imaging|this|our|my|the same) study",
    "(?:radar|mine|chimney|street|beam|frequency|line|camera|road) ?sweep(?:s|er|ers|ing)?",
    (
        "(?:one|1|single) run (?:per|of(?! train| (?:(?:the|an?) )?(?:automl|hpo|optuna|search|"
        "sweep|study|tuning|hyperparameter|grid|random))|"
        "in|from|number|id|each|for each|folder|left)"
    ),
    "there (?:is|was) (?:only )?(?:one|a single|1) run",
    "(?:everything|all|both|it all) in (?:one|a single) run",
    "plain (?:train|run)s?(?: (?:image|picture|photo|car|way|set|track|of)s?)",
    "train(?:ing)? (?:image|picture|photo|data|set|split|folder|station|track|car|step|epoch)s?",
    (
        "(?:one|1|single) (?:train|training) (?:image|set|split|folder|archive|file|class|sample|"
        "epoch|step|hour|machine|gpu)(?:e?s)?"
    ),
    (
        "(?:just|only|simply) train(?:ing)? (?:the )?(?:head|decoder|classifier|last|final|first|"
        "encoder|backbone|linear|top|norm|bias|layer)s?"
    ),
    "only (?:train|run) (?:on|with|for|until|it on|this on|it for)",
    (
        "no (?:automl|hpo|search|sweep|trials?|tuning|study|hyperparameter search) "
        "(?:limits?|budget|cap|"
        "deadline|restrictions?|bounds?|options?|settings?|metric|errors?|failures?|results?|space|"
        "longer|shorter|over|beyond|above)"
    ),
    "(?:no|not) (?:more|fewer|less|longer|bigger|larger) than",
    "(?:more|fewer|less) than(?= (?:[0-9]|two|three|four|five|six|eight|ten|twenty))",
    "no (?:longer|matter|problem|doubt|worries|hurry|rush)",
    "not only",
    "if (?:possible|you can|you please)",
)

# The clause that holds one of these says nothing for sure.
DOUBTS = (
    "whether|maybe|perhaps|possibly|probably|unsure|not sure|not certain|do not know|not convinced|"
    "if|unless|either|depends|depending|up to you|you decide|not decided|undecided|"
    "with or without|or not"
)
QUESTIONS = (
    "(?:should|could|would|can|may|do|does|is|are|will) (?:i|we)|"
    "(?:is|are|does|would|could|will) (?:it|a|an|the|there|this)"
)
POLITE = "(?:please )?(?:can|could|would|will) you"

# A clause that holds one of these does not plainly want the search that it names.
DISLIKES = (
    "overkill|pointless|useless|wasteful|waste of|nonsense|premature|not worth|no point|"
    "too (?:slow|expensive|costly|much|long|heavy|big|complicated)|excessive|hates?|dislikes?|"
    "(?:sick|tired|weary) of|(?:away|done|down|enough|out|over|weg|schluss) (?:with|mit)|"
    "(?:un|über|ueber)(?:nötig|noetig|flüssig|fluessig)"
)

# What may stand right behind and right before AutoML that is wanted, past the words of `PASSED`.
# Anything else may mean the opposite.
BEHIND = (
    "[0-9]+|with|without|on|for|over|at|up|to|from|and|or|in|using|until|till|after|once|when|then|"
    "but|as|plus|within|per|of|limited|via|by|while|that|which|too|also|again|here|there|only|today|"
    "tonight|overnight|this|the|a|an|it|runs?|trials?|search|searches|sweeps?|study|tuning|jobs?|"
    "pipeline|experiments?|training|train|options?|parameters?|budget|metric|settings|enabled|"
    "active|true|auto|yes|wanted|needed|required|necessary|welcome|ok|okay|fine|good|great|all|every|each|"
    "no|not more|not longer|choose|find|pick|what i want|"
    "max|maximum|maximize|minimize|maximizing|minimizing|optimi[sz]e|"
    "optimi[sz]ing|first|next|instead|if|mit|für|fuer|an|ein|und|über|ueber"
)
BEFORE = (
    "use|using|used|with|run|running|do|does|doing|start|starting|want|wants|need|needs|perform|"
    "performing|try|trying|launch|launching|apply|applying|enable|enabled|enabling|turn on|"
    "switch on|include|including|go for|like|love|prefer|make|plus|keep|have|require|requires|set|"
    "choose|let|via|by|through|in|for|of|on|to|per|after|before|until|stop|then|and|or|also|first|yes|ok|okay|"
    "sure|so|it|its|them|me|us|you|we|i|this|these|that|model|models|data|dataset|images|pictures|"
    "photos|classes|training|train|tune|tuning|optimi[sz]e|improve|best|hello|hi|request|action|"
    "automl|mit|und|per|bitte|nutze|verwende|starte"
)
PASSED = (
    "the|a|an|some|more|full|quick|short|small|little|proper|whole|automatic|extra|your|our|my|"
    "is|are|be|should|must|would|will|shall|policy|mode|set|now|please|bitte|really|definitely|"
    "expensive|long|wide|good|real|kind of|sort of|use of"
)

# In front of a rule these turn it round, with nothing but such words between.
NEGATIONS = "not|never|no reason to|without|more than|neither|nor|instead of|rather than"
BETWEEN = "ever|even|please|really|just|a|an|the|want|want to|want you to|you to|think of|to"

_LONGEST = 80
"""Words that are read together: the time to read a text grows with its length, not its square."""


@dataclass(frozen=True)
class Reading:
    """What was read of a search.

    Attributes:
        meaning: ``on``, ``off`` or ``unsure``; None where nothing is said.
        words: the words that say it, as `_plain` spells them.
    """

    meaning: str | None
    words: tuple[str, ...] = ()


def read_words(text: str) -> Reading:
    """What `text` says of a search of parameters."""
    found = [said for clause in _clauses(text) for said in _said_in(clause)]
    meanings = {meaning for meaning, _ in found}
    if meanings <= {NAMED}:
        return Reading(None)
    if ON in meanings:
        meanings.discard(NAMED)
    words = tuple(dict.fromkeys(phrase for _, phrase in found))
    return Reading(meanings.pop() if len(meanings) == 1 else UNSURE, words)


def _said_in(clause: str) -> Iterator[tuple[str, str]]:
    """(meaning, words) of every rule that a clause answers to."""
    doubted = _is_doubted(clause)
    disliked = re.search(rf"\b(?:{DISLIKES})\b", clause) is not None
    rest = clause.rstrip("?").strip()
    denied = False
    while (hit := _first(rest)) is not None:
        meaning, start, end = hit
        before, phrase = rest[:start], rest[start:end]
        negation = re.search(rf"\b(?:{NEGATIONS})(?: (?:{BETWEEN})){{0,4}} ?$", before)
        if negation is not None:
            meaning = ON if meaning == OFF else OFF
            phrase = before[negation.start() :] + phrase
        elif denied and meaning != OFF and re.fullmatch(r"(?:and|or|nor)?(?: any| to)? ?", before):
            meaning = OFF  # "no search or tuning", "do not search or tune"
        elif meaning in (ON, BARE) and re.search(
            r"\b(?:not|no|never|without)\b(?: \S+){0,4} ?$", before
        ):
            meaning = UNSURE  # a negation that no row explains
        elif meaning == BARE and not _is_known(before, rest[end:]):
            meaning = UNSURE
            phrase = " ".join([*before.split()[-3:], phrase, *rest[end:].split()[:4]])
        elif meaning in (ON, BARE, NAMED) and disliked:
            meaning, phrase = UNSURE, clause
        if re.search(r"\bnicht\b", clause):  # German, of which no row explains a negation
            meaning = UNSURE
        meaning = ON if meaning == BARE else meaning
        denied = meaning == OFF
        yield (UNSURE if doubted else meaning), phrase.strip()
        rest = rest[end:].strip()


def _is_known(before: str, behind: str) -> bool:
    """Whether the words beside AutoML are such as it is wanted with, or there are none."""
    passed = rf"(?:(?:{PASSED}) )*"
    return (
        re.fullmatch(rf"{passed}(?:(?:{BEHIND})\b.*)?", f"{behind.strip()} ".lstrip()) is not None
        and re.fullmatch(rf"(?:.*\b(?:{BEFORE}) )?{passed}", f"{before.strip()} ".lstrip())
        is not None
    )


def _is_doubted(clause: str) -> bool:
    """Whether a clause asks or leaves open."""
    if re.search(rf"\b(?:{DOUBTS})\b", clause) or re.match(rf"(?:{QUESTIONS})\b", clause):
        return True
    if re.search(r"\bor\b", clause) and not re.search(r"\b(?:no|not|without|never)\b", clause):
        return True
    return clause.endswith("?") and not re.match(POLITE, clause)


def _first(clause: str) -> tuple[str, int, int] | None:
    """Meaning and place of the rule that a clause answers to first."""
    hits = []
    for order, (meaning, pattern) in enumerate(_compiled()):
        if (match := pattern.search(clause)) is not None:
            hits.append((match.start(), order, meaning, match.end()))
    if not hits:
        return None
    earliest = min(hits)
    start, _, meaning, end = min(
        (hit for hit in hits if hit[0] < earliest[3]), key=lambda hit: hit[1]
    )
    return meaning, start, end


@cache
def _compiled() -> tuple[tuple[str, re.Pattern[str]], ...]:
    names = re.compile(r"\b(" + "|".join(KINDS) + r")\b")

    def whole(row: str) -> str:
        row = names.sub(lambda found: f"(?:{KINDS[found[0]]})", row)
        return row.replace("..", f" (?:(?:{KINDS['SMALL']}) ){{0,6}}")

    return tuple((meaning, re.compile(rf"\b{whole(row)}\b")) for meaning, row in RULES)


def _clauses(text: str) -> list[str]:
    """The parts of a text that are read one by one, without the phrases of `ELSEWHERE`."""
    plain = _plain(text)
    for phrase in ELSEWHERE:
        plain = re.sub(rf"\b(?:{phrase})\b", " … ", plain)
    parts = re.findall(r"[^.!?;,()\n…]+[?]?", plain)
    joints = r"\b(?:but|and then|then|so|because|since)\b"
    parts = [half for part in parts for half in re.split(joints, part)]
    clauses = []
    for words in (part.split() for part in parts):
        clauses += [words[at : at + _LONGEST] for at in range(0, len(words), _LONGEST)]
    return [" ".join(words) for words in clauses]


def _plain(text: str) -> str:
    """Lower case, one spelling of every word: ``Don’t run auto-ML`` → ``do not run automl``."""
    plain = unicodedata.normalize("NFKC", text).casefold().replace("’", "'").replace("`", "'")
    plain = re.sub(r"\b(?:ca|wo|sha)n't\b|\bcannot\b", "do not", plain)
    plain = re.sub(r"n't\b", " not", plain)
    plain = re.sub(r"\b(do|does|is|did|are|should|would|need)nt\b", r"\1 not", plain)
    plain = re.sub(r"(\d)[.,](\d)", r"\1\2", plain)
    # "AutoML: off" is one phrase, "without HPO: no HPO" are two.
    plain = re.sub(rf":(?!\s*(?:{KINDS['NEEDLESS']}|on|true|auto)\s*(?:[.!?;,()\n]|$))", ",", plain)
    plain = re.sub(r"['\"“”„«»*:]", " ", plain)
    plain = re.sub(r"\s[-–—]+\s|—", " , ", plain)
    plain = re.sub(r"[-_/–=]+", " ", plain)
    plain = re.sub(r"\bauto ml\b|\bautomated ml\b|\bauto ?tuning\b", "automl", plain)
    plain = re.sub(r"\bhyper ?(?:param(?:eter)?s?)\b", "hyperparameter", plain)
    return re.sub(r" +", " ", re.sub(r"\bfinetun", "fine tun", plain))
