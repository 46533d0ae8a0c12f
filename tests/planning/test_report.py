import re

import pytest

from autoseg.errors import Problem
from autoseg.planning.report import JSON_NAME, PAGE_NAME, write_report
from autoseg.system.atomic_files import read_json

BAD = Problem("case_001", "is bad. Mend it.")
ODD = Problem("case_002", "is odd.", is_error=False)
WHOLE = Problem("", "the dataset is odd.", is_error=False)


@pytest.fixture
def write(make_fingerprint_of, tmp_path):
    """Write a report of four cases, of which three were measured; give the folder."""

    def write_one(**changes):
        fingerprint = make_fingerprint_of(num_cases=4, spacing=(3.0, 0.5, 0.5), organs=("liver", "spleen"))
        cases = tuple(case for case in fingerprint.cases if case.case_id != "case_001")
        arguments = {
            "dataset_name": "data",
            "case_ids": ["case_000", "case_002", "case_003"],
            "fingerprint": fingerprint.model_copy(update={"cases": cases}),
            "used": ["case_000"],
            "problems": {"layout": [WHOLE, BAD], "contents": [ODD]},
        }
        write_report(tmp_path, **(arguments | changes))
        return tmp_path

    return write_one


def rows_of(page):
    """Give the text of each cell of each row of the table of cases."""
    table = page.split("<h2>Cases</h2>")[1]
    rows = re.findall(r"<tr>(.*?)</tr>", table, flags=re.DOTALL)[1:]
    cells = [re.findall(r"<td[^>]*>(.*?)</td>", row, flags=re.DOTALL) for row in rows]
    return [[" ".join(re.sub(r"<[^>]*>", " ", cell).split()) for cell in row] for row in cells]


def test_report_holds_state_facts_and_problems_of_each_case(write):
    content = read_json(write() / JSON_NAME)
    assert content["cases"] == {"case_000": "good", "case_001": "error", "case_002": "warning", "case_003": "good"}
    assert (content["num_cases"], content["num_used"], content["organs"]) == (4, 1, ["liver", "spleen"])
    assert content["problems"][1] == {
        "stage": "layout",
        "case_id": "case_001",
        "message": "is bad. Mend it.",
        "is_error": True,
    }
    assert content["facts"].keys() == {"case_000", "case_002", "case_003"}
    assert content["facts"]["case_000"] == {
        "size_zyx": [40, 120, 100],
        "spacing_zyx_mm": [3.0, 0.5, 0.5],
        "channels": [{"name": "MRI", "minimum": -100.0, "maximum": 200.0, "mean": 50.0}],
        "organs": [
            {"name": "liver", "volume_ml": 1.0, "num_components": 1},
            {"name": "spleen", "volume_ml": 1.0, "num_components": 1},
        ],
    }


def test_page_has_counts_and_the_cases_with_errors_first(write):
    page = (write() / PAGE_NAME).read_text(encoding="utf-8")
    head = " ".join(re.sub(r"<[^>]*>", "", page.split("<header>")[1].split("</header>")[0]).split())
    assert head.startswith("data: 1 of 4 cases can be used 1 with errors, 1 with warnings, 2 good.")
    assert '<li class="warning">the dataset is odd.</li>' in page
    facts = ["40 x 120 x 100", "3 x 0.5 x 0.5", "MRI -100 to 200", "liver 1 spleen 1"]
    assert rows_of(page) == [
        ["case_001", "error", "is bad. Mend it.", "", "", "", ""],
        ["case_002", "warning", "is odd.", *facts],
        ["case_000", "good", "", *facts],
        ["case_003", "good", "", *facts],
    ]


def test_page_escapes_every_name_and_asks_no_network(write, make_fingerprint_of):
    hostile = "<script>alert(1)</script>\"'&\x1b[2J\u202e"
    fingerprint = make_fingerprint_of(num_cases=1, organs=(hostile,), channel=hostile)
    case = fingerprint.cases[0].model_copy(update={"case_id": hostile})
    folder = write(
        dataset_name=hostile,
        case_ids=[hostile],
        fingerprint=fingerprint.model_copy(update={"cases": (case,)}),
        problems={"contents": [Problem("", hostile), Problem(hostile, hostile)]},
    )
    page = (folder / PAGE_NAME).read_text(encoding="utf-8")
    shown = "&lt;script&gt;alert(1)&lt;/script&gt;&#34;&#39;&amp;\\x1b[2J\\u202e"
    assert page.count(shown) == 8  # title, headline, twice a problem, organ, case, channel, organ of the case
    assert page.count("alert(1)") == 8
    assert "<script" not in page and "\x1b" not in page and "\u202e" not in page
    assert not re.search(r"(src|href|url)\s*[=(]", page)
    assert "default-src 'none'" in page


def test_report_of_a_dataset_that_cannot_be_used_has_its_problems(write):
    folder = write(case_ids=(), fingerprint=None, used=(), problems={"layout": [Problem("", "no labels.")]})
    assert read_json(folder / JSON_NAME)["problems"][0]["message"] == "no labels."
    page = (folder / PAGE_NAME).read_text(encoding="utf-8")
    assert '<li class="error">no labels.</li>' in page and "0 of 0 cases" in page


def test_report_of_the_same_dataset_has_the_same_bytes(write):
    folder = write()
    before = [(folder / name).read_bytes() for name in (JSON_NAME, PAGE_NAME)]
    write()
    assert [(folder / name).read_bytes() for name in (JSON_NAME, PAGE_NAME)] == before
