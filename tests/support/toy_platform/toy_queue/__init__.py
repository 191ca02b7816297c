"""A batch queue in a folder (`engine`) and the platform over it (`adapter`)."""
