"""Running jobs: platforms, the supervisor of a job and its processes."""
