"""Makes untrusted text safe for tables that are opened in a spreadsheet.

Owns: `cell`, for names of cases and organs; numbers do not need it.
"""

from autoseg.errors import printable

# A spreadsheet computes a cell that begins so; the last four are what East Asian keyboards write.
FORMULA_STARTS = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")


def cell(text: str) -> str:
    """Return the text with control characters escaped, and an apostrophe before text that would be a formula."""
    safe = printable(text)
    return f"'{safe}" if safe.lstrip().startswith(FORMULA_STARTS) else safe
