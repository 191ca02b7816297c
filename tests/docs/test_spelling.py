"""One spelling in code, messages and documents: the American one, as the words of the API are."""

from __future__ import annotations

import re

from tests.support.docs import ROOT

PLACES = ("skill", "sdk", "runners", "tests", "docs", "references", "evals", "examples")
PLACES += ("benchmarks",)
ENDINGS = {".py", ".md", ".json", ".ipynb", ".j2"}
# What was once written by a program of that day, and stays as it was.
RECORDS = ("benchmarks/results", "evals/results", "tests/support/old_jobs")

BRITISH = """
analyse analysing artefact afterwards behaviour cancelle cancelling capitalis catalogue centre
centred centring characteris colour customis defence favour finalis flavour generalis honour
initialis isation judgement labell learnt licence localis maximis minimis modelled modelling
neighbour normalis optimis organis penalis prioritis quantis realis recognis regularis serialis
signalled signalling specialis spelt standardis summaris synchronis tokenis travelled tumour
utilis visualis whilst
"""
OTHERS = re.compile(r"realis[mt]|optimis[mt]|analyses", re.IGNORECASE)

# Names that a file, a reader or another program knows by their old spelling.
KEPT = re.compile(
    r"""
      ["'`/]labelled["'`/)] | labelled/ | (?:datasets?|inspect)\ labelled  # a folder's name
    | ["'`]unlabelled["'`] | ,\ unlabelled, | -unlabelled                # keys of `mae inspect`
    | ["'`]artefacts["'`]                                                # a key of result.json
    | ["']neighbours["'] | ,\ neighbours,                                # a key of `mae explain`
    | colours\.csv | error_catalogue                                     # files
    | CANCELLED | notifications/cancelled | get_cancelled_exc_class | cancelled_caught
    | canceled\ cancelled | unlabeled\ unlabelled | labeled\ labelled    # words that are understood
    | "(?:max|min)imise" | hyper-parameter\ optimisation
    | aria-labelledby
    """,
    re.VERBOSE,
)


def british(text: str) -> list[str]:
    lowered = text.lower()
    places = [
        (word, at.start())
        for word in BRITISH.split()
        if word in lowered
        for at in re.finditer(word, lowered)
    ]
    if not places:
        return []
    right = [found.span() for names in (KEPT, OTHERS) for found in names.finditer(text)]
    return [word for word, at in places if not any(start <= at < end for start, end in right)]


def test_a_british_word_is_found_and_a_name_that_is_kept_is_not() -> None:
    assert british('a labelled "labelled" folder, normalised; result["artefacts"]') == [
        "labell",
        "normalis",
    ]
    assert british("otherwise raise the noise, precisely: an exercise of a labeled array") == []


def test_code_messages_and_documents_are_spelled_the_american_way() -> None:
    files = [*ROOT.glob("*.md"), *ROOT.glob("*.toml")]
    files += [file for place in PLACES for file in (ROOT / place).rglob("*")]
    texts = {
        name: file.read_text(encoding="utf-8")
        for file in files
        if file.suffix in ENDINGS and "__pycache__" not in file.parts
        if not (name := file.relative_to(ROOT).as_posix()).startswith(RECORDS)
        if file.name != "test_spelling.py"
    }
    found = {name: words for name, text in texts.items() if (words := british(text))}

    assert len(texts) > 400 and found == {}
