"""Asked of a small hub on this machine (the fixture `hub`), through huggingface_hub as it is."""

import hashlib
import re
import socket
import time

import pytest

from autoseg.errors import CheckpointError
from autoseg.hub import download as hub_module
from autoseg.hub.address import HubFile, parse_address
from autoseg.hub.download import find_weights, hub_access, pin

REPO, NAME = "owner/repo", "sub/weights.pt"
ADDRESS = f"hf://{REPO}/{NAME}"
CONTENT = b"some weights"
SHA256 = hashlib.sha256(CONTENT).hexdigest()
OTHER_COMMIT = "f" * 40


@pytest.fixture(autouse=True)
def filled(hub):
    """Every test has a hub with one file, and ends without it having been asked for anything but files."""
    hub.files[REPO, NAME] = CONTENT
    hub.commit = hub.revisions["main"]
    hub.pinned = f"hf://{REPO}@{hub.commit}/{NAME}"
    yield
    assert all(path == "/" or "/resolve/" in path for _, path in hub.asked)


@pytest.mark.parametrize("revision", ["", "@main", "@{commit}"])
def test_pin_finds_commit_and_sha256_without_fetching(hub, revision):
    file = parse_address(f"hf://{REPO}{revision.format(commit=hub.commit)}/{NAME}")
    assert pin(file) == (HubFile(REPO, hub.commit, NAME), SHA256)
    assert {method for method, _ in hub.asked} == {"HEAD"}


def test_pin_a_small_file_of_which_the_hub_knows_no_sha256_fetches_it(hub):
    hub.small.add((REPO, NAME))
    assert pin(parse_address(ADDRESS)) == (HubFile(REPO, hub.commit, NAME), SHA256)


def test_pin_a_short_name(hub):
    hub.files["facebook/sam2.1-hiera-tiny", "sam2.1_hiera_tiny.pt"] = b"tiny"
    pinned, sha256 = pin(parse_address("sam2.1_hiera_tiny"))
    assert str(pinned) == f"hf://facebook/sam2.1-hiera-tiny@{hub.commit}/sam2.1_hiera_tiny.pt"
    assert sha256 == hashlib.sha256(b"tiny").hexdigest()


def test_pin_asks_nobody_where_commit_and_sha256_are_given(hub):
    file = HubFile(REPO, OTHER_COMMIT, NAME)
    assert pin(file, sha256="a" * 64) == (file, "a" * 64)
    assert hub.asked == []


def test_pin_refuses_a_sha256_that_the_file_does_not_have(hub):
    assert pin(parse_address(ADDRESS), sha256=SHA256)[1] == SHA256
    with pytest.raises(CheckpointError, match=f"{re.escape(hub.pinned)} has the SHA-256 {SHA256}, not {'a' * 64}"):
        pin(parse_address(ADDRESS), sha256="a" * 64)


def test_find_weights_fetches_once_and_then_asks_nobody(hub):
    assert find_weights(hub.pinned, sha256=SHA256).read_bytes() == CONTENT
    assert ("GET", f"/{REPO}/resolve/{hub.commit}/{NAME}") in hub.asked
    hub.asked.clear()
    assert find_weights(hub.pinned, sha256=SHA256).read_bytes() == CONTENT
    assert find_weights(hub.pinned, sha256=SHA256, offline=True).read_bytes() == CONTENT
    assert hub.asked == []


@pytest.mark.parametrize(("weights", "sha256"), [(ADDRESS, SHA256), ("{pinned}", None), ("sam2_hiera_tiny", None)])
def test_find_weights_takes_nothing_that_is_not_pinned(hub, weights, sha256):
    with pytest.raises(CheckpointError, match=r"lacks a commit or a SHA-256\. Run autoseg_plan again"):
        find_weights(weights.format(pinned=hub.pinned), sha256=sha256)
    assert hub.asked == []


def test_a_file_that_was_changed_on_the_hub_is_refused_and_can_be_fetched_again(hub):
    hub.files[REPO, NAME] = b"evil weights"  # as long as the true ones
    hub.stated[REPO, NAME] = SHA256
    with pytest.raises(CheckpointError, match=f"{re.escape(hub.pinned)}: the file has the SHA-256") as caught:
        find_weights(hub.pinned, sha256=SHA256)
    [blob] = re.findall(r"Delete (\S+) and run the same command again", str(caught.value))
    hub_module.Path(blob).unlink()
    hub.files[REPO, NAME] = CONTENT
    assert find_weights(hub.pinned, sha256=SHA256).read_bytes() == CONTENT


def test_a_file_that_was_changed_in_the_cache_is_refused(hub):
    path = find_weights(hub.pinned, sha256=SHA256)
    path.write_bytes(b"evil weights")
    for offline in (False, True):
        with pytest.raises(CheckpointError, match=f"network.weights_sha256 is {SHA256}"):
            find_weights(hub.pinned, sha256=SHA256, offline=offline)


def test_find_weights_offline_without_a_cache_says_where_it_looked_and_what_to_do(hub):
    with pytest.raises(CheckpointError) as caught:
        find_weights(hub.pinned, sha256=SHA256, offline=True)
    for part in (
        f"{hub.pinned} is not in the hub's cache, {hub.cache}, and may not be fetched (--offline, or HF_HUB_OFFLINE)",
        f"fetch {hub.url}/{REPO}/resolve/{hub.commit}/{NAME} on another machine",
        "--set network.weights=/path/to/weights.pt",
    ):
        assert part in str(caught.value)
    assert hub.asked == []


def test_pin_offline_takes_what_the_cache_calls_main(hub):
    from huggingface_hub import hf_hub_download

    with pytest.raises(CheckpointError, match="is not in the hub's cache"):
        pin(parse_address(ADDRESS), offline=True)
    with hub_access(offline=False):
        hf_hub_download(REPO, NAME, cache_dir=hub.cache)
    hub.asked.clear()
    assert pin(parse_address(ADDRESS), offline=True) == (HubFile(REPO, hub.commit, NAME), SHA256)
    with pytest.raises(CheckpointError, match="is not in the hub's cache"):
        pin(parse_address(f"hf://{REPO}@v2/{NAME}"), offline=True)
    assert hub.asked == []


def test_pin_offline_takes_the_only_commit_that_was_fetched_and_refuses_to_guess_among_several(hub):
    find_weights(hub.pinned, sha256=SHA256)
    hub.asked.clear()
    assert pin(parse_address(ADDRESS), offline=True) == (HubFile(REPO, hub.commit, NAME), SHA256)
    other = hub.cache / "models--owner--repo" / "snapshots" / OTHER_COMMIT / NAME
    other.parent.mkdir(parents=True)
    other.write_bytes(b"newer")
    with pytest.raises(
        CheckpointError, match=f"several revisions. Name one of {re.escape(hub.pinned)}, .*{OTHER_COMMIT}"
    ):
        pin(parse_address(ADDRESS), offline=True)
    assert hub.asked == []


def test_what_forbids_huggingface_hub_the_network_forbids_it_here(hub, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for ask in (lambda: pin(parse_address(ADDRESS)), lambda: find_weights(hub.pinned, sha256=SHA256)):
        with pytest.raises(CheckpointError, match="HF_HUB_OFFLINE"):
            ask()
    assert hub.asked == []


@pytest.mark.parametrize(
    ("address", "message"),
    [
        (f"hf://owner/other/{NAME}", "the hub shows no repository owner/other. Check its name"),
        (f"hf://{REPO}@v9/{NAME}", "has no revision v9. Check it"),
        (f"hf://{REPO}/other.pt", "has no file other.pt at this revision. Check its name"),
    ],
)
def test_what_the_hub_does_not_have_is_named(address, message):
    with pytest.raises(CheckpointError, match=message) as caught:
        pin(parse_address(address))
    assert str(caught.value).startswith(address) and "\n" not in str(caught.value)


def test_a_commit_that_is_gone_is_named_when_fetching():
    with pytest.raises(CheckpointError, match=f"has no revision {OTHER_COMMIT}"):
        find_weights(f"hf://{REPO}@{OTHER_COMMIT}/{NAME}", sha256=SHA256)


def test_a_server_that_is_no_hub_is_named(hub):
    hub.revisions["main"] = "no commit"
    with pytest.raises(CheckpointError, match="does not answer as a hub does"):
        pin(parse_address(ADDRESS))


@pytest.fixture(params=["closed", "silent"])
def absent(request, monkeypatch):
    """Put an address in place of the hub's at which nothing listens, or somebody who never answers."""
    listener = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    if request.param == "closed":
        listener.close()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", url)
    monkeypatch.setattr(
        "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/{revision}/{filename}"
    )
    monkeypatch.setattr(hub_module, "ANSWER_SECONDS", 0.3)
    yield url
    listener.close()


def test_a_hub_that_does_not_answer_is_named_in_a_line_and_soon(hub, absent):
    start = time.monotonic()
    for ask in (lambda: pin(parse_address(ADDRESS)), lambda: find_weights(hub.pinned, sha256=SHA256)):
        with pytest.raises(
            CheckpointError, match=f"cannot be downloaded: {absent} cannot be reached: .*--offline"
        ) as caught:
            ask()
        assert "\n" not in str(caught.value)
    assert time.monotonic() - start < 3


def test_find_weights_checks_a_local_file_where_a_sha256_is_given(tmp_path):
    path = tmp_path / "sam2.pt"
    path.write_bytes(CONTENT)
    assert find_weights(str(path)) == find_weights(str(path), sha256=SHA256) == path
    with pytest.raises(CheckpointError, match=r"sam2\.pt: the file has the SHA-256 .* Give the right file"):
        find_weights(str(path), sha256="a" * 64)


def test_hub_access_ends_with_an_error_too():
    from huggingface_hub import constants

    with pytest.raises(ZeroDivisionError), hub_access(offline=True) as may_ask:
        assert (may_ask, constants.HF_HUB_OFFLINE) == (False, True)
        raise ZeroDivisionError
    assert (constants.HF_HUB_OFFLINE, constants.HF_HUB_DISABLE_TELEMETRY) == (False, False)
