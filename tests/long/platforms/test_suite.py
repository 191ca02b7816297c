"""The common suite on every engine that can be started here, and what takes longer of it."""

from __future__ import annotations

from tests.platforms.test_suite import (
    test_a_bundle_is_trained_checked_and_listed_there,
    test_a_canceled_job_ends_with_all_its_processes,
    test_a_failed_run_is_analyzed,
    test_a_job_is_started_once_though_it_is_submitted_by_many,
    test_a_job_outlives_the_client_that_started_it,
    test_a_job_whose_supervisor_is_killed_is_an_error_and_is_resumed,
    test_a_preempted_job_goes_on_from_its_newest_checkpoint,
    test_a_study_and_its_trials_run_there_with_the_settings_of_the_study,
    test_its_output_is_its_log_and_its_environment_is_in_no_file,
    test_states_are_told_of_many_jobs_at_once,
)

__all__ = [
    "test_a_bundle_is_trained_checked_and_listed_there",
    "test_a_canceled_job_ends_with_all_its_processes",
    "test_a_failed_run_is_analyzed",
    "test_a_job_is_started_once_though_it_is_submitted_by_many",
    "test_a_job_outlives_the_client_that_started_it",
    "test_a_job_whose_supervisor_is_killed_is_an_error_and_is_resumed",
    "test_a_preempted_job_goes_on_from_its_newest_checkpoint",
    "test_a_study_and_its_trials_run_there_with_the_settings_of_the_study",
    "test_its_output_is_its_log_and_its_environment_is_in_no_file",
    "test_states_are_told_of_many_jobs_at_once",
]
