"""The caller's side: plans, jobs, data, AutoML. No torch."""
