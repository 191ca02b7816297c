"""Training: objectives, optimiser groups, schedules, the loop, exact resume, quality probes and trackers."""
