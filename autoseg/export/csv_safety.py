"""A cell of a table that somebody will open in a spreadsheet.

Owns: `cell`. Used for names of cases and organs, which are untrusted text; numbers need none of it.
"""

from autoseg.errors import printable

# A spreadsheet computes a cell that begins so; the last four are what East Asian keyboards write.
FORMULA_STARTS = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")


def cell(text: str) -> str:
    """Return text that stays text: control characters escaped, and an apostrophe before what would be a formula."""
    safe = printable(text)
    return f"'{safe}" if safe.lstrip().startswith(FORMULA_STARTS) else safe
