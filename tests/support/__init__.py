"""Real components that tests share."""
