"""AutoML settings as upstream's runner has them: understood, or answered with what to say instead.

`understood` turns what has the same meaning here into our options. `ANSWERS` says of every other
setting why it is not one of ours and what does its work.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SAME = {
    "automl_max_recommendations": "max_trials",
    "num_recommendations": "max_trials",
    "automl_max_trials": "max_trials",
    "automl_max_experiments": "max_trials",
    "automl_max_epochs": "max_epochs",
    "automl_max_concurrent": "concurrency",
    "automl_reduction_factor": "reduction_factor",
    "automl_min_early_stop_epochs": "min_epochs",
    "automl_range_override": "ranges",
    "automl_hyperparameters": "parameters",
}
"""Settings that are ours by another name."""

ALGORITHMS: dict[str, dict[str, str]] = {
    "bayesian": {"sampler": "tpe"},
    "b": {"sampler": "tpe"},
    "hyperband": {"sampler": "random", "pruner": "hyperband"},
    "h": {"sampler": "random", "pruner": "hyperband"},
    "asha": {"sampler": "random", "pruner": "successive_halving"},
    "bohb": {"sampler": "tpe", "pruner": "hyperband"},
    "random": {"sampler": "random"},
    "grid": {"sampler": "grid"},
    "tpe": {"sampler": "tpe"},
}
"""Words of ``algorithm`` and what they are here. BOHB is Hyperband whose proposals come from a
density model of the finished trials: TPE with Hyperband, https://arxiv.org/abs/1807.01774."""

_NO_MODEL = "no language model takes part in a search here: sampler=tpe"
_PBT = (
    "population-based training changes parameters and copies weights while a run trains, which "
    "Optuna has no sampler for: sampler=tpe pruner=hyperband"
)
_DEHB = (
    "differential evolution is no sampler of Optuna, and its hub's is downloaded when a study "
    "starts: sampler=cmaes, or sampler=tpe pruner=hyperband (BOHB)"
)
_TPE = "TPE chooses this by itself: sampler=tpe"
_BASELINE = "trial 0 is the spec as given, and every table compares with it"
_FINAL = "judge the best trial by `mae run evaluate --parent JOB`"
_KEPT = (
    "a trial keeps the checkpoints that its runner keeps: of the bundled skill the best and the "
    "newest (train.keep_checkpoints=N), of another bundle by the fields of its own spec"
)
_SEVERAL = "several metrics: metric=[a:maximize, b:minimize]"

NOT_GIVEN = {
    "pbt": _PBT,
    "dehb": _DEHB,
    "hyperband_es": "Hyperband that stops early: sampler=random pruner=hyperband plateau=N",
    "hes": "Hyperband that stops early: sampler=random pruner=hyperband plateau=N",
    "bfbo": "a Bayesian search: sampler=tpe",
    "hybrid": _NO_MODEL,
    "llm": _NO_MODEL,
    "autoresearch": _NO_MODEL,
    "gepa": _NO_MODEL,
}
"""Words of ``algorithm`` that are refused, and what to take instead."""

ANSWERS = {
    "epoch_multiplier": "the epochs of a trial are those of the spec, at most max_epochs=N",
    "automl_population_size": _PBT,
    "automl_max_generations": _PBT,
    "automl_eval_interval": _PBT,
    "automl_perturbation_factor": _PBT,
    "automl_mutation_factor": _DEHB,
    "automl_crossover_prob": _DEHB,
    "automl_early_stop_threshold": "plateau=N ends a study after N trials without a better one",
    "automl_kde_samples": _TPE,
    "automl_top_n_percent": _TPE,
    "automl_min_points_in_model": _TPE,
    "automl_min_top_configs": "max_trials=N or plateau=N ends a study",
    "override_automl_disabled_params": "a field that its schema disables is not searched: "
    "parameters=[KEY, KEY] names others, and the bundle's schema (automl_enabled, "
    "automl_disabled_parameters) says which are",
    "automl_delete_intermediate_ckpt": _KEPT,
    "automl_checkpoint_retention_strategy": _KEPT,
    "automl_retain_failed_artifacts": "the folder of a failed trial stays: `mae jobs delete JOB`",
    "allow_unsafe_effective_batch": "range.KEY=[low, high] bounds the batch size",
    "objectives": _SEVERAL,
    "multi_objective": _SEVERAL,
    "metric_weight": _SEVERAL,
    "metric_scale": _SEVERAL,
    "latency_objective": _SEVERAL,
    "latency_metric": _SEVERAL,
    "latency_direction": _SEVERAL,
    "latency_scale": _SEVERAL,
    "latency_weight": _SEVERAL,
    "include_latency": _SEVERAL,
    "run_baseline": _BASELINE,
    "baseline_metric": _BASELINE,
    "baseline_record_path": _BASELINE,
    "run_final_evaluation": _FINAL,
    "final_evaluation": _FINAL,
    "final_evaluation_metric": _FINAL,
    "final_evaluation_record_path": _FINAL,
    "reuse_best_metric_for_final_evaluation": _FINAL,
    "evaluation_records_dir": _FINAL,
    "session_id": "--idempotency-key K: the same key gives the same study",
    "experiment_id": "--idempotency-key K: the same key gives the same study",
    "evolvable_text_parameters": _NO_MODEL,
    "research_program": _NO_MODEL,
    "enable_llm_range_narrowing": _NO_MODEL,
    "hybrid_enable_llm_range_narrowing": _NO_MODEL,
    "llm_analysis_interval": _NO_MODEL,
    "llm_api_key": _NO_MODEL,
    "llm_endpoint": _NO_MODEL,
    "llm_max_tokens": _NO_MODEL,
    "llm_model": _NO_MODEL,
    "llm_temperature": _NO_MODEL,
    "api_key": _NO_MODEL,
    "base_url": _NO_MODEL,
    "model": _NO_MODEL,
}
"""Settings that are refused, and what does their work."""


def understood(given: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Options with upstream's settings as ours, and a note for each that was.

    A setting that is given in our words too is left as it is: it is refused as given twice.
    """
    found: dict[str, Any] = {}
    notes: list[str] = []
    for name, value in given.items():
        ours = SAME.get(name)
        if name == "algorithm" and (words := ALGORITHMS.get(str(value).strip().lower())):
            taken = {key: word for key, word in words.items() if key not in given}
            found |= taken
            shown = " ".join(f"{key}={word}" for key, word in taken.items())
            notes.append(f"algorithm={value} is {shown}")
        elif ours is not None and ours not in given:
            found[ours] = _ranges(value) if ours == "ranges" else value
            notes.append(f"{name} is {ours}")
        else:
            found[name] = value
    return found, notes


def answer(name: str, value: Any) -> str | None:
    """What to say instead of a setting of upstream's; None for a word that is none."""
    if name == "algorithm":
        word = str(value).strip().lower()
        return NOT_GIVEN.get(word, f"one of {', '.join(word for word in ALGORITHMS if word[1:])}")
    if name in SAME:
        return f"{SAME[name]}, which is given too"
    return ANSWERS.get(name)


def _ranges(value: Any) -> Any:
    """Upstream's list of ``{parameter, valid_min, valid_max, …}`` as key → range."""
    if not isinstance(value, list):
        return value
    found = {}
    for one in value:
        if not isinstance(one, Mapping) or "parameter" not in one:
            return value
        found[str(one["parameter"])] = {
            key: item for key, item in one.items() if key != "parameter" and item is not None
        }
    return found


RANGE_WORDS = {
    "valid_min": "low",
    "valid_max": "high",
    "min": "low",
    "max": "high",
    "minimum": "low",
    "maximum": "high",
    "valid_options": "choices",
    "options": "choices",
    "option_weights": "weights",
}
"""Upstream's words in a range."""
