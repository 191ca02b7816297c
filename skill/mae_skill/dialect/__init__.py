"""Upstream's dialect of a bundle: its schemas as JSON Schema, and the keys of its files that are
read.
"""

from mae_skill.dialect.fields import is_slip, misspelled, slips, unknown
from mae_skill.dialect.keys import MEANT, unread_info, unread_schema
from mae_skill.dialect.kinds import is_nested, misread
from mae_skill.dialect.schema import is_foreign, normalize

__all__ = [
    "MEANT",
    "is_foreign",
    "is_nested",
    "is_slip",
    "misread",
    "misspelled",
    "normalize",
    "slips",
    "unknown",
    "unread_info",
    "unread_schema",
]
