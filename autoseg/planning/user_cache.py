"""Where a check without a run folder keeps what it measured: the user's own cache folder.

Owns: the path of a dataset's file there, and the removal of files that nothing has used for long.
Does not own: the file's content (`fingerprint/case_cache.py`).

The folder is $XDG_CACHE_HOME/autoseg, or ~/.cache/autoseg. Where there is none, or it cannot be written, nothing is
kept and all works as before. Anything in it may be deleted at any time.
"""

import hashlib
import os
import time
from contextlib import suppress
from pathlib import Path

from autoseg.planning.fingerprint.case_cache import CaseCache

ENDING = ".jsonl"
MAX_DAYS_UNUSED = 90


def open_user_cache(dataset_root: Path) -> CaseCache:
    """Open what the user's cache folder holds of a dataset; datasets are told apart by their real paths."""
    folder, root = find_folder(), dataset_root.resolve()
    if folder is None or root in (folder, *folder.parents):  # a dataset is never written to
        return CaseCache(None)
    name = hashlib.blake2b(os.fsencode(root), digest_size=16).hexdigest()
    path = folder / f"{name}{ENDING}"
    with suppress(OSError):
        if path.is_file():
            os.utime(path)
        _remove_unused(folder)
    return CaseCache(path, is_optional=True)


def find_folder() -> Path | None:
    """Find the folder for datasets, which need not exist; None where the user has no home."""
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        base = named if named.is_absolute() else Path.home() / ".cache"  # the standard passes over relative paths
        return (base / "autoseg" / "datasets").resolve()
    except (OSError, RuntimeError):  # no home, or a circle of links
        return None


def _remove_unused(folder: Path) -> None:
    oldest = time.time() - MAX_DAYS_UNUSED * 24 * 3600
    for path in folder.glob(f"*{ENDING}"):
        if path.is_file() and path.stat().st_mtime < oldest:
            path.unlink()
