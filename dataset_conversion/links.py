"""A second name for a file that can stay as it is.

Owns: `link_or_copy`. A hard link takes no space; both names are one file until one of them is replaced, and nothing in
autoseg changes a file in place.
"""

import os
import shutil
import uuid
from pathlib import Path

from autoseg.system.atomic_files import TEMPORARY_PREFIX, atomic_path


def link_or_copy(source: Path, target: Path) -> bool:
    """Return a file a second name, or a copy where the file systems differ or know no links; complete or absent.

    Returns:
        Whether it is a link.

    Raises:
        OSError: It cannot be written.
    """
    source = source.resolve()  # a link to a link would hang in the air without the first
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.parent / f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}"
    try:
        os.link(source, temporary)
    except OSError:  # another file system, one without links, too many links, somebody else's file
        with atomic_path(target) as copy:
            shutil.copyfile(source, copy)
        return False
    try:
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)  # rename does nothing where both are the same file already
    return True
