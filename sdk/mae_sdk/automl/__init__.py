"""Hyper-parameter search: an AutoML job is a study whose trials are jobs of the same platform.

In the order in which they build on each other: ``options`` the ``--automl`` keys · ``objectives``
metrics and directions · ``ranges`` and ``space`` the search parameters, from the packaged schema ·
``proposals`` what a trial's number decides · ``pruner``, ``samplers`` and ``study`` the Optuna side
· ``setup`` what a plan shows and a controller is given · ``trials`` a trial as a job ·
``shared_workers`` several machines on one study · ``results`` what a study leaves behind ·
``controller`` the process that runs it.
Optuna is imported inside functions, and by ``samplers``; pydantic by ``options`` alone.
"""
