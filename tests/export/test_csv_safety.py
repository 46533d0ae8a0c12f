import pytest

from autoseg.export.csv_safety import cell


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("liver", "liver"),
        ("=1+1", "'=1+1"),
        ("+1", "'+1"),
        ("-1", "'-1"),
        ("@a", "'@a"),
        (" =1", "' =1"),
        ("\uff1d1", "'\uff1d1"),
        ("\t=1", r"\t=1"),
        ("\r=1", r"\r=1"),
        ("a\nb", r"a\nb"),
        ("a=1", "a=1"),
        ("", ""),
    ],
)
def test_a_cell_stays_text(text, shown):
    assert cell(text) == shown
