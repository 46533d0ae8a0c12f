"""Asks a language model to describe unknown organs, if the user wants it.

Owns: which organs are asked for, `descriptions.json` with the answers, and showing them.
Does not own: the question and the connection (`organs/llm_texts.py`).
"""

import logging
from pathlib import Path

from autoseg.errors import UsageError, printable
from autoseg.organs import describe_organ, find_modality
from autoseg.organs.llm_texts import Server, ask_description
from autoseg.planning.fingerprint.fingerprint import Fingerprint
from autoseg.planning.organ_texts.organ_sentences import list_modalities
from autoseg.system.atomic_files import read_json, write_json
from autoseg.system.progress import track

log = logging.getLogger("autoseg")

FILE_NAME = "descriptions.json"


def add_descriptions(fingerprint: Fingerprint, *, run_folder: Path, server: Server | None) -> Fingerprint:
    """Add the descriptions from a language model, asked now or earlier, to organs that have none of their own.

    Args:
        fingerprint: The fingerprint of the dataset.
        run_folder: The folder with earlier answers, which may be edited and are not asked for again.
        server: The server to ask for the others; None asks nobody.

    Raises:
        UsageError: The server cannot be reached or returns no description; earlier answers are kept.
    """
    path = run_folder / FILE_NAME
    kept = _read(path)
    modalities = {find_modality(names) for names in list_modalities(fingerprint).values()}
    modality = modalities.pop() if len(modalities) == 1 else "unknown"
    unknown = [
        organ.name
        for organ in fingerprint.organs
        if not describe_organ(organ.name, modality=modality, own_text=organ.description).is_known
    ]
    missing = [name for name in unknown if name not in kept]
    if server is not None and missing:
        for name in track(missing, what=f"asking {server.model}"):
            kept[name] = ask_description(name, modality=modality, server=server)
            write_json(path, kept)
            log.info("%s, described by %s: %s", printable(name), printable(server.model), kept[name])
    organs = tuple(
        organ.model_copy(update={"description": kept[organ.name]})
        if organ.name in unknown and organ.name in kept
        else organ
        for organ in fingerprint.organs
    )
    return fingerprint.model_copy(update={"organs": organs})


def _read(path: Path) -> dict[str, str]:
    if not path.exists():
        return {}
    content = read_json(path)
    if not isinstance(content, dict) or not all(isinstance(text, str) for text in content.values()):
        raise UsageError(
            f"{path} contains more than names with their descriptions. Correct it, or delete it to ask again."
        )
    return content
