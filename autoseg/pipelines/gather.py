"""What became of the cases of every rank, brought to the one that leads.

Owns: `gather`. Ranks may be on several machines, so it goes through the output folder, which all of them write to.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from autoseg.distributed.ranks import Ranks
from autoseg.export.run_files import CaseStatus
from autoseg.pipelines.resume_log import parse_organ
from autoseg.system.atomic_files import read_json, write_text


def gather(statuses: Sequence[CaseStatus], ranks: Ranks, *, output: Path) -> list[CaseStatus]:
    """Wait for all ranks; return the statuses of all of them where this one leads, else its own.

    Raises:
        OSError: The folder cannot be written.
    """
    if ranks.world_size == 1:
        return list(statuses)
    if not ranks.is_main:
        content = json.dumps([dataclasses.asdict(status) for status in statuses], allow_nan=False)  # names of any bytes
        write_text(_path(output, ranks.rank), content)
    ranks.barrier()
    if not ranks.is_main:
        return list(statuses)
    together = list(statuses)
    for rank in range(1, ranks.world_size):
        path = _path(output, rank)
        together += [_parse(content) for content in read_json(path)]
        path.unlink()
    return sorted(together, key=lambda status: status.case_id)


def _path(output: Path, rank: int) -> Path:
    return output / f".rank-{rank}.json"


def _parse(content: dict[str, Any]) -> CaseStatus:
    return CaseStatus(**{**content, "organs": tuple(parse_organ(organ) for organ in content["organs"])})
