"""Hyper-parameter search: an AutoML job is a study whose trials are child jobs.

``options`` the ``--automl`` keys and the metric contract · ``space`` knobs from the packaged schema · ``study`` the Optuna side ·
``trials`` a trial as a child job · ``controller`` the process that runs the study · ``results`` what it leaves behind.
Only ``study``, ``controller`` and ``results`` import Optuna, and only inside functions.
"""
