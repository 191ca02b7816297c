"""What `--request` reads in a person's own words: a search, none, nothing, or it asks."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from mae_sdk import Skill
from mae_sdk.cli.main import main
from mae_sdk.plan.search_words import read_words
from mae_skill.errors import UsageError

from tests.support.images import write_imagefolder

OFF = (
    "no search",
    "No Search, please.",
    "single run",
    "just one run",
    "a single run is enough",
    "one training run",
    "don't tune",
    "Don’t tune anything",
    "do not tune",
    "dont tune",
    "just train",
    "just train it",
    "Just train it plainly",
    "only train the model",
    "simply train",
    "turn off AutoML",
    "AutoML turned off",
    "turn AutoML off please",
    "Switch off the auto-ML",
    "without a search",
    "train without any tuning",
    "no sweep",
    "no HPO this time",
    "NO HYPERPARAMETER SEARCH",
    "no hyper-parameter optimisation",
    "plain training",
    "vanilla training, please",
    "a single straightforward training",
    "a plain run",
    "train it once",
    "run it only once",
    "skip the sweep",
    "disable AutoML",
    "AutoML disabled",
    "AutoML off",
    "automl_policy=off",
    "AutoML: off",
    "pretrain and fine-tune without HPO: no HPO",
    "do not run HPO: no hpo",
    "HPO: no, please",
    "hpo=none",
    "Could you train without HPO?",
    "never run HPO here",
    "I don't want a search",
    "we do not need AutoML",
    "no need to tune",
    "no need for a search",
    "AutoML is not needed",
    "leave the search out",
    "no tuning or sweeps",
    "don't search or tune",
    "fine-tune it without AutoML",
    "fine-tune, no search",
    "ohne AutoML",
    "avoid hyperparameter tuning",
    "instead of a search, one run",
    "a single run rather than a sweep",
    "no labels so disable AutoML",
    "keep the hyperparameters fixed",
    "zero trials",
    "train the model as is",
    "stop using AutoML",
    "don't bother with HPO",
    "Train on /data/x with 10 classes; no grid search",
    "not a search",
    "Kindly train a single model without any hyperparameter search",
    "I'd like a plain run, nothing fancy",
    "no automated ML",
    "Please leave AutoML off",
    "keep automl off",
    "run with HPO off",
    "with AutoML disabled",
    "just do a single training run",
    "do one run only",
    "one training only",
    "no auto-tuning",
    "no param sweep please",
    "don't do any sweeps",
    "I do not want you to tune the learning rate",
    "please don't optimize hyperparameters",
    "skip tuning",
    "No need for hyperparameter tuning",
    "without doing a grid search",
    "Train it. No search. Then evaluate.",
    "hold off on AutoML",
    "we don't have time for a search",
    "Finetune the parent job, no hpo, 10 classes",
    "train just one model",
    "only one trial",
    "single-run fine-tune",
    "non-AutoML training",
    "AutoML=off",
    "no AutoML and no HPO",
    "don't use automl for this",
    "Let's not do a search this time",
    "nothing to tune, just train",
    "no tuning needed",
    "no AutoML, it is overkill",
    "do not use AutoML because it is too slow",
    "AutoML aus",
    "AutoML bitte ausschalten",
    "ohne Suche, bitte nur einfach trainieren",
    "keine Hyperparametersuche",
    "nur trainieren",
)
ON = (
    "AutoML, no more than 3 trials",
    "do not turn off AutoML",
    "never disable HPO",
    "this is not a plain run",
    "don't forget the tuning",
    "with AutoML",
    "search for the best learning rate",
    "tune it with 8 trials",
    "no reason to skip the search",
    "more than a single run",
    "run a sweep over the learning rate",
    "stop AutoML after 2 hours",
    "max_trials=8",
    "not without a search",
    "don't skip HPO",
    "I want the best hyperparameters, so do tune",
    "Find the best learning rate with a sweep",
    "use AutoML with 5 trials at most",
    "don't run more than 5 trials",
    "please do not disable AutoML",
    "AutoML without pruning",
    "tune without a GPU",
    "AutoML but no more than 2 hours",
    "run AutoML, no fine-tuning of the decoder",
    "don't just train, tune",
    "AutoML, but no trials longer than an hour",
    "AutoML",
    "AutoML on my flowers, please",
    "I would like AutoML now",
    "AutoML: on",
    "automl_policy=on",
    "let AutoML find the best settings",
    "run the training with AutoML enabled",
    "Run an HPO on /data/x, 5 classes",
    "grid search over lr",
    "Trainiere mit AutoML",
)
NOTHING = (
    "no search results",
    "no search results in the folder, train on the rest",
    "fine-tune a ViT on my images",
    "don't fine-tune, pretrain",
    "only train the head",
    "photos of tuning forks",
    "no search engine images",
    "a clinical trial data set",
    "no longer than 2 hours",
    "the single run of river photos",
    "train it once the data is there",
    "search and rescue drone images, 5 classes",
    "no labels",
    "no more than 10 epochs",
    "one training image per class",
    "street sweepers and plain train cars",
    "only train on class A",
    "no AutoML limit",
    "no hyperparameters given",
    "not only flowers",
    "train images are in /a, val in /b",
    "do everything in one run: pretrain and evaluate",
    "radar sweeps of 3 classes",
    "pretrain a hiera on unlabeled images without labels",
    "no problem if it takes long",
    "no searching for a folder, the data is at /x",
    "train on the images without tuning forks in them",
    "I have not searched the folder",
    "just pretrain",
    "just evaluate it",
    "the training job finished; evaluate it",
    "there is one run in the folder, fine-tune from it",
    "no stop early",
    "Off we go: pretrain a ViT",
    "continue the run, no changes",
)
UNSURE = (
    "should I turn off AutoML?",
    "maybe no search",
    "I am not sure whether to tune",
    "no HPO for the first, then tune it",
    "a search or a single run",
    "use AutoML only if it is cheap",
    "with or without search",
    "is a single run enough?",
    "I am not convinced that AutoML helps",
    "skip HPO unless there is time",
    "no AutoML? or AutoML?",
    "do we need a sweep?",
    "a single run, then a sweep",
    "no AutoML unless it pays",
    "what about a single run?",
    "AutoML or not",
    "turn off AutoML, then run a search",
    "AutoML would be overkill",
    "AutoML is too slow",
    "a sweep would be overkill",
    "single run of AutoML",
    "one run of a sweep",
    "AutoML raus",
    "AutoML bitte nicht",
    "AutoML nicht ausschalten",
    "nicht nur trainieren",
    "nicht ohne Suche",
    "weg mit AutoML",
    "done with AutoML",
    "ditch AutoML",
    "scrap HPO",
    "AutoML later",
    "AutoML kills my budget",
    "hyperparameter search is a waste of time",
)

LONG = ("single run " * 2000, "use of " * 3000, "no the a an " * 2000, "do not want to " * 1500)


@pytest.mark.parametrize("text", OFF)
def test_words_that_want_no_search_turn_it_off(text: str) -> None:
    assert read_words(text).meaning == "off"


@pytest.mark.parametrize("text", ON)
def test_words_that_want_a_search_or_forbid_to_turn_it_off_leave_it_on(text: str) -> None:
    assert read_words(text).meaning == "on"


@pytest.mark.parametrize("text", NOTHING)
def test_words_of_other_things_say_nothing_of_a_search(text: str) -> None:
    assert read_words(text).meaning is None


@pytest.mark.parametrize("text", UNSURE)
def test_words_that_ask_or_contradict_each_other_are_unsure(text: str) -> None:
    assert read_words(text).meaning == "unsure"


@pytest.mark.parametrize("text", [text for text in OFF if "AutoML_" not in text])
def test_case_and_a_word_of_courtesy_change_nothing(text: str) -> None:
    assert read_words(text.upper()).meaning == "off"
    assert read_words(f"Hello, {text}. Thank you!").meaning == "off"


@pytest.mark.parametrize("text", LONG)
def test_a_long_text_is_read_in_little_time(text: str) -> None:
    before = time.process_time()
    read_words(text)
    assert time.process_time() - before < 5


def test_a_plan_says_what_was_understood_and_an_unclear_request_is_an_error(
    tmp_path: Path,
) -> None:
    data = write_imagefolder(tmp_path / "pictures", classes=2, per_class=2)
    skill = Skill()

    def plan(request: str, policy: str | None = None) -> tuple[bool, str]:
        made = skill.plan(
            "train",
            train_datasets=str(data),
            spec_overrides={"arch": "vit_tiny_patch16", "image_size": 32},
            request=request,
            automl_policy=policy,
            results_root=str(tmp_path / "results"),
        )
        assert made.policy.understood in made.notices
        return made.automl is not None, str(made.policy.understood)

    off, said = plan("Train these, single run")
    assert (off, "“single run” → one run, no search" in said) == (False, True)
    on, said = plan("Train these, AutoML, no more than 3 trials")
    assert (on, "→ a search (AutoML)" in said) == (True, True)
    on, said = plan("Train these flowers")
    assert (on, "says nothing of a search: a search (AutoML)" in said) == (True, True)
    on, said = plan("just train", "on")
    assert (on, "automl_policy goes before the request" in said) == (True, True)
    with pytest.raises(UsageError, match="leaves open") as caught:
        plan("Maybe without a search?")
    assert "automl_policy=off" in str(caught.value) and "automl_policy=on" in str(caught.value)


def test_an_unclear_request_is_answered_with_the_two_commands(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_imagefolder(tmp_path / "pictures", classes=2, per_class=2)
    words = ["plan", "train", "--train-datasets", str(data), "--results-root", str(tmp_path)]
    with pytest.raises(SystemExit) as left:
        main([*words, "--request", "maybe no search", "arch=vit_tiny_patch16"])
    said = capsys.readouterr().err
    assert left.value.code == 2
    command = f"mae {' '.join(words)} arch=vit_tiny_patch16"
    assert f"one run: {command} --automl-policy off" in said
    assert f"a search: {command} --automl-policy on" in said
