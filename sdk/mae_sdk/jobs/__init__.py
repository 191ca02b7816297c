"""The job folder: the only record of a job.

What a supervisor imports is standard library only, so that it starts in tens of milliseconds.

::

    <results_root>/<job_id>/
      job.json      what was asked, every attempt with its states          records.py
      spec.yaml     the resolved spec
      status.json   progress, one JSON object per line                       status.py
      log.txt       what the runner printed, secrets removed
      error.json    the error that ended the last attempt, if the runner could still write it
      <action>/     results; <action>/checkpoints.json lists checkpoints   checkpoints.py
"""
