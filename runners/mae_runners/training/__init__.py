"""Training: the loop, checkpoints and exact resume, the optimizer, schedules, and trackers."""
