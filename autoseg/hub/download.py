"""Downloads weights from the Hugging Face hub, and finds their commit and hash; only this module uses huggingface_hub.

Owns: `pin` (in planning), `find_weights` (in training), `hub_access`, around every request.
Does not own: addresses (`address.py`), where a plan stores the pin (`planning/pin_weights.py`), the content of a file
(`weights/sam2_checkpoint.py`).

huggingface_hub is imported inside functions: planning rarely needs it, and the import takes a tenth of a second.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from autoseg.errors import CheckpointError
from autoseg.hub.address import COMMIT, HubFile, parse_address
from autoseg.system.atomic_files import file_sha256

ANSWER_SECONDS = 10.0  # a hub that has not answered by then counts as unreachable
_SHA256 = re.compile(r"[0-9a-f]{64}")


def pin(file: HubFile, *, sha256: str | None = None, offline: bool = False) -> tuple[HubFile, str]:
    """Find the commit that a file's revision means now, and the SHA-256 of the file.

    Args:
        file: The file to pin.
        sha256: The SHA-256 that the user gave; with a commit as revision, the hub is not asked.
        offline: Whether to take both from the hub's cache on this machine.

    Returns:
        The file at its commit, and the 64 hexadecimal digits.

    Raises:
        CheckpointError: The hub cannot be reached or has no such file, the cache does not have it either, or the
            SHA-256 differs from the given one.
    """
    if file.is_pinned and sha256 is not None:
        return file, sha256
    with hub_access(offline=offline) as may_ask:
        if may_ask:
            pinned, found = _ask(file)
        else:
            path = _find_in_cache(file)
            if path is None:
                raise CheckpointError(_explain_absence(file))
            pinned, found = _with_commit_of(file, path), file_sha256(path)
    if sha256 is not None and found != sha256:
        raise CheckpointError(f"{pinned} has the SHA-256 {found}, not {sha256}. Correct network.weights_sha256.")
    return pinned, found


def find_weights(weights: str, *, sha256: str | None = None, offline: bool = False) -> Path:
    """Return the file that a plan's `network.weights` names; a file on the hub is downloaded unless it is in the cache.

    Args:
        weights: A path, or a pinned address.
        sha256: The SHA-256 that the file must have; required for an address.
        offline: Whether to use only the hub's cache on this machine.

    Raises:
        CheckpointError: The file cannot be downloaded, or its SHA-256 differs. A path that does not exist is reported
            when it is opened.
        PlanError: The address is not valid.
    """
    file = parse_address(weights)
    if file is None:
        path = Path(weights)
        if sha256 is not None and path.is_file():
            _check(path, sha256, name=weights, remedy="Give the right file, or correct network.weights_sha256.")
        return path
    if not file.is_pinned or sha256 is None:
        raise CheckpointError(
            f"network.weights = {weights} lacks a commit or a SHA-256. Run autoseg_plan again, which finds both."
        )
    with hub_access(offline=offline) as may_ask:
        path = _find_in_cache(file) or _fetch(file, may_ask=may_ask)
    _check(path, sha256, name=str(file), remedy=f"Delete {path.resolve()} and run the same command again.")
    return path


@contextmanager
def hub_access(*, offline: bool) -> Iterator[bool]:
    """Keep huggingface_hub off the network if asked to, also when other packages call it, and disable its telemetry.

    Yields whether the hub may be asked, which the user may also forbid with HF_HUB_OFFLINE.
    """
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE, constants.HF_HUB_DISABLE_TELEMETRY
    constants.HF_HUB_OFFLINE = offline or before[0]
    constants.HF_HUB_DISABLE_TELEMETRY = True  # else its user agent costs a request of its own
    try:
        yield not constants.HF_HUB_OFFLINE
    finally:
        constants.HF_HUB_OFFLINE, constants.HF_HUB_DISABLE_TELEMETRY = before


def explain_no_network() -> str | None:
    """Request the front page of the hub once; return why that failed, or None if there was an answer.

    huggingface_hub itself would retry for minutes.
    """
    from huggingface_hub import constants, get_session

    try:
        get_session().head(constants.ENDPOINT, timeout=ANSWER_SECONDS)
    except Exception as error:  # of httpx or httpx2, as the version of huggingface_hub has it
        return f"{constants.ENDPOINT} cannot be reached: {error}"
    return None


def is_absence(error: BaseException | None) -> bool:
    """Return whether an error was caused by a file that is missing in the cache of huggingface_hub."""
    from huggingface_hub import errors

    while error is not None and not isinstance(error, errors.LocalEntryNotFoundError):
        error = error.__context__
    return error is not None


def cache_folder() -> Path:
    """Return the folder in which huggingface_hub caches files."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def _ask(file: HubFile) -> tuple[HubFile, str]:
    """Ask for commit and SHA-256; small files, whose SHA-256 the hub does not know, are downloaded."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    _require_network(file)
    url = hf_hub_url(file.repo, file.name, revision=file.revision)
    try:
        facts = get_hf_file_metadata(url, timeout=ANSWER_SECONDS)
    except Exception as error:  # its own errors, and those of httpx or httpx2
        raise CheckpointError(_explain_refusal(file, error)) from error
    if facts.commit_hash is None or COMMIT.fullmatch(facts.commit_hash) is None:
        raise CheckpointError(
            f"{url} does not answer as a hub does: it names no commit. Check HF_ENDPOINT and proxies."
        )
    pinned = replace(file, revision=facts.commit_hash)
    if facts.etag is not None and _SHA256.fullmatch(facts.etag):
        return pinned, facts.etag
    return pinned, file_sha256(_fetch(pinned, may_ask=True))


def _fetch(file: HubFile, *, may_ask: bool) -> Path:
    from huggingface_hub import hf_hub_download

    if not may_ask:
        raise CheckpointError(_explain_absence(file))
    _require_network(file)
    try:
        return Path(hf_hub_download(file.repo, file.name, revision=file.revision, cache_dir=cache_folder()))
    except Exception as error:  # its own errors, and those of httpx or httpx2
        raise CheckpointError(_explain_refusal(file, error)) from error


def _find_in_cache(file: HubFile) -> Path | None:
    """Return the file in the hub's cache, or None, also for a broken link whose target was deleted."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(file.repo, file.name, cache_dir=cache_folder(), revision=file.revision)
    if isinstance(found, str):
        return Path(found)
    if file.revision is not None:
        return None
    # What was fetched at its commit leaves no note of the branch: without one, the only commit there is the one meant.
    snapshots = cache_folder() / f"models--{file.repo.replace('/', '--')}" / "snapshots"
    paths = sorted(folder / file.name for folder in snapshots.glob("*") if (folder / file.name).is_file())
    if len(paths) > 1:
        known = ", ".join(str(_with_commit_of(file, path)) for path in paths)
        raise CheckpointError(f"{file}: the hub's cache holds several revisions. Name one of {known}.")
    return paths[0] if paths else None


def _with_commit_of(file: HubFile, path: Path) -> HubFile:
    """Return the file at the commit that its path in the cache (snapshots/COMMIT/FILE) names."""
    return replace(file, revision=path.parents[file.name.count("/")].name)


def _check(path: Path, sha256: str, *, name: str, remedy: str) -> None:
    try:
        found = file_sha256(path)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error}. {remedy}") from error
    if found != sha256:
        raise CheckpointError(
            f"{name}: the file has the SHA-256 {found}, but network.weights_sha256 is {sha256}. It is damaged or is "
            f"not the file that was planned with. {remedy}"
        )


def _require_network(file: HubFile) -> None:
    fault = explain_no_network()
    if fault is not None:
        raise CheckpointError(
            f"{file} cannot be downloaded: {fault}. Connect and try again, give --offline if the hub's cache, "
            f"{cache_folder()}, has the file, {_other_ways(file)}"
        )


def _explain_absence(file: HubFile) -> str:
    return (
        f"{file} is not in the hub's cache, {cache_folder()}, and may not be fetched (--offline, or HF_HUB_OFFLINE). "
        f"Run once without that, {_other_ways(file)}"
    )


def _other_ways(file: HubFile) -> str:
    from huggingface_hub import hf_hub_url

    url = hf_hub_url(file.repo, file.name, revision=file.revision)
    return (
        f"or fetch {url} on another machine, put it anywhere on this one, and plan with "
        f"--set network.weights=/path/to/{file.name.rsplit('/', 1)[-1]}."
    )


def _explain_refusal(file: HubFile, error: Exception) -> str:
    from huggingface_hub import errors

    first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
    match error:
        case errors.RevisionNotFoundError():
            return f"{file}: the repository has no revision {file.revision}. Check it, or leave it out."
        case errors.EntryNotFoundError() if not isinstance(error, errors.LocalEntryNotFoundError):  # silent halfway
            return f"{file}: the repository has no file {file.name} at this revision. Check its name."
        case errors.RepositoryNotFoundError():
            return (
                f"{file}: the hub shows no repository {file.repo}. Check its name; one that is closed to the public "
                "opens after `hf auth login`."
            )
    return f"{file} cannot be downloaded: {first_line} Try again later, {_other_ways(file)}"
