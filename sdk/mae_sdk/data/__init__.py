"""Data sources: folders, archives and object-store prefixes, read by index from a local cache."""

from mae_sdk.data.inspect import inspect_source
from mae_sdk.data.sources import Source, open_source

__all__ = ["Source", "inspect_source", "open_source"]
