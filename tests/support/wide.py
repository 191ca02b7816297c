"""What `make test` leaves to `make test-long K=wide`: the expensive cases of tables and the second
and third way to the same place. Of every table some cases stay.

Each line is a pattern (`fnmatch`, with ``[`` and ``]`` as they are) over the ids of pytest.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

HIERA = "hiera_tiny_224"

PATTERNS = (
    f"tests/training/test_golden.py::*[{HIERA}-*]",
    f"tests/training/test_mixed_precision.py::*[{HIERA}-*]",
    "tests/training/test_mixed_precision.py::test_a_captured_graph_has_*",
    f"tests/training/test_resume.py::test_the_other_families_*[{HIERA}]",
    "tests/training/test_resume.py::test_a_run_killed_after_any_step_*[3-*]",
    "tests/training/test_resume.py::test_a_run_killed_after_any_step_*[9-*]",
    "tests/training/test_resume.py::test_a_run_killed_after_any_step_*[4-pretrain]",
    "tests/training/test_resume.py::test_a_run_killed_after_any_step_*[5-finetune]",
    "tests/training/test_killed.py::test_a_kill_around_a_checkpoint_*-3]",
    "tests/training/test_runs.py::test_the_loss_falls[convnextv2_atto-*]",
    f"tests/segmentation/test_training.py::test_twelve_steps_*[{HIERA}]",
    f"tests/models/test_checkpoint_files.py::*[correct horse-{HIERA}]",
    "tests/models/test_checkpoint_files.py::*[correct horse-convnextv2_atto]",
    f"tests/models/test_patch_size.py::test_every_family_*[{HIERA}-2-32]",
    "tests/models/test_patch_size.py::test_every_family_*[convnextv2_atto-1-24]",
    f"tests/models/test_export.py::test_opset_12_*-{HIERA}]",
    "tests/models/test_hiera_parity.py::test_loss_and_gradients_*[dtype1-*",
    "tests/models/test_hiera_parity.py::test_loss_and_gradients_*[dtype2-*",
    "tests/models/test_hiera_parity.py::test_loss_and_gradients_*[dtype3-*",
    f"tests/models/test_weights_in.py::test_a_square_table_*[{HIERA}]",
    f"tests/models/test_weights_in.py::test_an_asked_for_patch_*[{HIERA}-*",
    f"tests/models/test_checkpoints_in.py::test_a_timm_file_*[True-{HIERA}]",
    f"tests/deploy/test_hand_on.py::test_timm_answers_*[{HIERA}-pretrain-*",
    f"tests/deploy/test_hand_on.py::test_timm_answers_*[{HIERA}-finetune-32-{{'patch_size': 2}}]",
    f"tests/deploy/test_hand_on.py::test_transformers_answers_*[{HIERA}-pretrain-64-*",
    f"tests/deploy/test_hand_on.py::test_transformers_answers_*[{HIERA}-finetune-*",
    f"tests/deploy/test_export.py::*[finetune-12-{HIERA}]",
    f"tests/deploy/test_export.py::test_every_family_exports_*[pretrain-17-{HIERA}]",
    f"tests/deploy/test_hand_on.py::test_a_timm_folder_*[{HIERA}-finetune-32-{{'patch_size': 2}}]",
    f"tests/deploy/test_hand_on.py::test_a_transformers_folder_*[{HIERA}-pretrain-64-*",
    "tests/deploy/test_evaluate.py::test_an_onnx_file_scores_*[3]",
    f"tests/models/test_checkpoint_files.py::test_a_model_comes_back_*[None-{HIERA}]",
    f"tests/models/test_checkpoints_in.py::test_our_own_pretraining_*[{HIERA}]",
    f"tests/training/test_channels.py::test_every_family_*[{HIERA}]",
    f"tests/models/test_checkpoints_in.py::test_a_timm_file_*[False-{HIERA}]",
    f"tests/models/test_checkpoints_in.py::test_a_file_of_another_*[hiera_small_224-{HIERA}]",
    f"tests/deploy/test_hand_on.py::test_a_transformers_folder_*[{HIERA}-finetune-32-{{}}-*",
    f"tests/deploy/test_hand_on.py::test_transformers_answers_*[{HIERA}-pretrain-32-*",
    f"tests/models/test_weights_in.py::test_a_parents_head_moves_*[{HIERA}]",
    f"tests/models/test_reconstruction.py::test_without_normalized_pixels_*[{HIERA}]",
    f"tests/deploy/test_load_model.py::test_embeddings_are_pooled_*[pretrain-{HIERA}-*",
    f"tests/training/test_muon.py::test_plan_and_run_agree_*[{HIERA}-finetune]",
    "tests/automl/test_controller.py::test_the_same_seed_gives_the_same_study_*",
    "tests/deploy/test_engine.py::test_a_real_engine_*[convnextv2_atto-*]",
    "tests/deploy/test_evaluate.py::test_the_defaults_of_a_whole_spec_give_way_too[RANK]",
    "tests/packaging/test_wheel.py::test_the_wheel_plans_and_validates_*",
    "tests/cli/test_environment.py::test_a_plan_is_the_same_*[*'PYTHONOPTIMIZE'*",
    "tests/cli/test_environment.py::test_a_plan_is_the_same_*[*'PYTHONIOENCODING'*",
    "tests/cli/test_environment.py::test_a_plan_is_the_same_*[*'PYTHONWARNINGS'*",
    "tests/cli/test_environment.py::test_a_plan_is_the_same_*[*'TMPDIR'*",
    "tests/cli/test_environment.py::test_closed_streams_*[mae train * 2>&1 | true-141]",
    "tests/cli/test_environment.py::test_closed_streams_*[mae validate train * <&- >&- 2>&--0]",
    "tests/cli/test_environment.py::test_closed_streams_*[mae validate train * <&- 2>&--0]",
    "tests/deploy/test_engine.py::test_a_real_engine_*[vit_tiny_patch16-bf16]",
    f"tests/deploy/test_hand_on.py::test_a_transformers_folder_*[{HIERA}-pretrain-32-*",
    f"tests/deploy/test_hand_on.py::*transformers_folder_*[{HIERA}-finetune-32-{{'channels': 4}}-*",
    f"tests/deploy/test_hand_on.py::test_timm_answers_*[{HIERA}-finetune-32-{{'channels': 6}}]",
    "tests/deploy/test_profile.py::test_the_description_of_an_engine_*[4-values2-profile2]",
    "tests/deploy/test_profile.py::test_the_description_of_an_engine_*[-1-values3-profile3]",
    "tests/training/test_preemption.py::test_a_signal_during_an_evaluation_*[probe]",
    "tests/training/test_preemption.py::test_a_signal_during_an_evaluation_*[pictures]",
    "tests/training/test_golden.py::test_thirty_steps_*[convnextv2_atto-finetune]",
    "tests/training/test_muon.py::test_a_run_with_muon_continues_*[finetune]",
    "tests/models/test_weights_in.py::test_a_folder_of_transformers_gives_its_logits_*[Hiera*",
    "tests/models/test_weights_in.py::test_hieras_decoder_of_transformers_is_taken",
    "tests/training/test_ranks.py::test_a_signal_to_ranks_*",
    "tests/training/test_preemption.py::test_an_error_ends_a_run_with_workers",
    "tests/automl/test_workers.py::test_a_worker_that_wakes_up_*",
)


def _expression(pattern: str) -> re.Pattern[str]:
    parts = (re.escape(part) for part in pattern.split("*"))
    return re.compile(".*".join(parts), re.DOTALL)


_EXPRESSIONS = {pattern: _expression(pattern) for pattern in PATTERNS}


def is_wide(node: str) -> bool:
    """Whether the test of an id is left to `make test-long`."""
    return any(found.fullmatch(node) for found in _EXPRESSIONS.values())


def without_a_test(nodes: Iterable[str]) -> list[str]:
    """The patterns that none of these ids is of."""
    ids = list(nodes)
    return [name for name, found in _EXPRESSIONS.items() if not any(map(found.fullmatch, ids))]
