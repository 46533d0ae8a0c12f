"""Asks a language model behind an OpenAI-compatible server, which a user must name, for descriptions of organs.

Owns: the question, the connection, and the checks of the answer.
Does not own: which organs are asked for, and where answers are stored (`organ_texts/describe_unknown_organs.py`).

Only the organ's name and the modality are sent.
"""

import json
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any

from autoseg.errors import UsageError, printable
from autoseg.organs.lookup import TEXT_FIELDS, Modality
from autoseg.system.atomic_files import parse_json

TIMEOUT_SECONDS = 120.0
MAX_ANSWER_BYTES = 1_000_000
TEXT_LENGTH = (15, 400)  # characters of one field
QUESTION = (
    "You write a radiology textbook. Describe the structure that the user names for a reader who is to outline it in "
    "{images}. Answer with one JSON object and nothing else. Its keys are what, where, shape, ct, mri and "
    "confused_with; each value is one or two plain sentences of at most 30 words that name the structure: what it is; "
    "where it lies and beside what; shape and size in mm; look on CT with HU; look on T1 and T2 MRI; what it is "
    "confused with and how it differs."
)
IMAGES = {"ct": "CT scans", "mri": "MRI scans", "unknown": "CT and MRI scans"}


@dataclass(frozen=True)
class Server:
    """The server to ask.

    Attributes:
        url: The base address, such as http://localhost:8000/v1.
        model: The name of a model that the server knows.
        key: The bearer token; None sends none.
    """

    url: str
    model: str
    key: str | None = None


def ask_description(name: str, *, modality: Modality, server: Server) -> str:
    """Ask for the description of an organ.

    Returns:
        The fields of the answer as plain text, one after the other.

    Raises:
        UsageError: The server cannot be reached, or its answer is not a description.
    """
    body = {
        "model": server.model,
        "messages": [
            {"role": "system", "content": QUESTION.format(images=IMAGES[modality])},
            {"role": "user", "content": name},
        ],
        "temperature": 0,
    }
    answer = _post(body, server=server)
    try:
        content = parse_json(answer)["choices"][0]["message"]["content"]
        fields = parse_json(_without_fence(content))
    except (ValueError, LookupError, TypeError, AttributeError):
        raise UsageError(
            f"--describe {server.url}: the answer for {printable(name)} is not the JSON that was asked for. Try "
            "another --describe-model, or write the description yourself, in dataset.json."
        ) from None
    return " ".join(_checked(fields, name=name, server=server))


def _post(body: dict[str, Any], *, server: Server) -> bytes:
    address = server.url.rstrip("/") + "/chat/completions"
    if urllib.parse.urlsplit(address).scheme not in ("http", "https"):
        raise UsageError(f"--describe {server.url}: expected an address that begins with http:// or https://.")
    headers = {"Content-Type": "application/json"}
    if server.key is not None:
        headers["Authorization"] = f"Bearer {server.key}"
    request = urllib.request.Request(address, data=json.dumps(body).encode(), headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:
            answer: bytes = response.read(MAX_ANSWER_BYTES)
            return answer
    except urllib.error.HTTPError as error:
        raise UsageError(
            f"--describe {server.url}: the server answers {error.code} ({error.reason}). Check the address, "
            "--describe-model and --describe-key-file."
        ) from error
    except (OSError, HTTPException, ValueError) as error:  # URLError and time-outs are OSErrors
        raise UsageError(
            f"--describe {server.url} cannot be reached: {error}. Start it, or leave out --describe."
        ) from error


def _without_fence(content: str) -> str:
    """Return the text between ``` marks, which many models put around JSON."""
    text = content.strip()
    if text.startswith("```"):
        text = text.removeprefix("```").removeprefix("json").rsplit("```", 1)[0]
    return text


def _checked(fields: Any, *, name: str, server: Server) -> list[str]:
    """Return the texts in order; each must be present, plain, and of sensible length."""
    low, high = TEXT_LENGTH
    texts = []
    for field in TEXT_FIELDS:
        text = fields.get(field) if isinstance(fields, dict) else None
        tidy = " ".join(text.split()) if isinstance(text, str) else ""
        if not low <= len(tidy) <= high or not tidy.isprintable():
            raise UsageError(
                f"--describe {server.url}: the answer for {printable(name)} has no plain text of {low} to {high} "
                f"characters under {field!r}. Try another --describe-model."
            )
        texts.append(tidy if tidy.endswith((".", "!", "?")) else tidy + ".")
    return texts
