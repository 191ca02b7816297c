"""Storage behind paths and URLs."""
