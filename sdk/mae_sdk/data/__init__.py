"""Data sources: folders, archives and object-store prefixes, read by index from a local cache."""

from mae_sdk.data.inspect import inspect_masks, inspect_source
from mae_sdk.data.pairs import Pairs, open_pairs
from mae_sdk.data.source import Source, open_source

__all__ = ["Pairs", "Source", "inspect_masks", "inspect_source", "open_pairs", "open_source"]
