import pytest

from autoseg.errors import PlanError
from autoseg.hub.address import SHORT_NAMES, HubFile, parse_address


def test_short_names_stand_for_metas_published_files():
    assert len(SHORT_NAMES) == 8
    assert SHORT_NAMES["sam2_hiera_tiny"] == "hf://facebook/sam2-hiera-tiny/sam2_hiera_tiny.pt"
    assert SHORT_NAMES["sam2.1_hiera_base_plus"] == "hf://facebook/sam2.1-hiera-base-plus/sam2.1_hiera_base_plus.pt"
    assert SHORT_NAMES["sam2.1_hiera_large"] == "hf://facebook/sam2.1-hiera-large/sam2.1_hiera_large.pt"


@pytest.mark.parametrize(
    ("weights", "file"),
    [
        ("hf://owner/repo/a.pt", HubFile("owner/repo", None, "a.pt")),
        ("hf://owner/re.po-1@v1.0/sub/a_b.pt", HubFile("owner/re.po-1", "v1.0", "sub/a_b.pt")),
        ("sam2_hiera_small", HubFile("facebook/sam2-hiera-small", None, "sam2_hiera_small.pt")),
        ("/weights/sam2.pt", None),
        ("sam2.pt", None),
        ("owner/repo/a.pt", None),
    ],
)
def test_parse_address_tells_files_of_the_hub_from_paths(weights, file):
    assert parse_address(weights) == file
    if file is not None:
        assert parse_address(str(file)) == file


@pytest.mark.parametrize(
    "rest",
    [
        "",
        "owner",
        "owner/repo",
        "owner/repo/",
        "owner/repo@/a.pt",
        "owner/repo/../a.pt",
        "o/r//a",
        "o/r/a\n",
        "o/r/a b",
    ],
)
def test_parse_address_refuses_what_is_none(rest):
    with pytest.raises(PlanError, match="expected hf://OWNER/REPO/FILE"):
        parse_address("hf://" + rest)
