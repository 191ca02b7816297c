"""The job folder: the only record of a job. Standard library only, so that a supervisor starts in tens of milliseconds.

::

    <results_root>/<job_id>/
      job.json      what was asked, every attempt with its states          records.py
      spec.yaml     the resolved spec
      status.json   progress, one JSON object a line                       status.py
      log.txt       what the runner printed, secrets removed
      error.json    the error that ended the last attempt, if the runner could still write it
      <action>/     results; <action>/checkpoints.json lists checkpoints   checkpoints.py
"""
