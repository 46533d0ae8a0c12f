"""Parses addresses of files on the Hugging Face hub, and Meta's names for SAM2's checkpoints.

Owns: `HubFile`, `parse_address`, `SHORT_NAMES`.
Does not own: asking the hub about a file, downloading it (`download.py`).

An address is `hf://OWNER/REPO/FILE` or `hf://OWNER/REPO@REVISION/FILE`. It is *pinned* if the revision is a commit of
40 hexadecimal digits: then the file cannot change.
"""

import re
from dataclasses import dataclass

from autoseg.errors import PlanError

PREFIX = "hf://"
SIZES = ("tiny", "small", "base_plus", "large")
# What Meta published, by the names of its files: the repository has hyphens where the file has underscores.
SHORT_NAMES = {
    f"{version}_hiera_{size}": f"{PREFIX}facebook/{version}-hiera-{size.replace('_', '-')}/{version}_hiera_{size}.pt"
    for version in ("sam2", "sam2.1")
    for size in SIZES
}
_NAME = r"[A-Za-z0-9_][A-Za-z0-9_.-]*"
_ADDRESS = re.compile(rf"hf://({_NAME}/{_NAME})(?:@({_NAME}))?/({_NAME}(?:/{_NAME})*)")
COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class HubFile:
    """A file on the hub.

    Attributes:
        repo: OWNER/REPO.
        revision: A commit, branch or tag; None means the main branch.
        name: The path of the file inside the repository.
    """

    repo: str
    revision: str | None
    name: str

    @property
    def is_pinned(self) -> bool:
        """Return whether the revision is a full commit."""
        return self.revision is not None and COMMIT.fullmatch(self.revision) is not None

    def __str__(self) -> str:
        """Return the address."""
        revision = "" if self.revision is None else f"@{self.revision}"
        return f"{PREFIX}{self.repo}{revision}/{self.name}"


def parse_address(weights: str) -> HubFile | None:
    """Return the file on the hub that an address or a short name means, or None for a path on this machine.

    Raises:
        PlanError: The address begins with hf:// and is not valid.
    """
    address = SHORT_NAMES.get(weights, weights)
    if not address.startswith(PREFIX):
        return None
    found = _ADDRESS.fullmatch(address)
    if found is None:
        raise PlanError(
            f"network.weights = {weights} is not the address of a file on the hub; expected hf://OWNER/REPO/FILE or "
            "hf://OWNER/REPO@REVISION/FILE."
        )
    return HubFile(repo=found[1], revision=found[2], name=found[3])
