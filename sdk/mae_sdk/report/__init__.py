"""The HTML report of a job, of a chain of jobs, and the live page of a results root."""
