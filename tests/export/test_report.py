import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from autoseg.export import report
from autoseg.export.report import ReportedCase, choose_viewed, format_report
from autoseg.export.viewer_slices import pack_slices
from autoseg.io.geometry import ImageGeometry
from autoseg.io.image import Scan

NASTY = "</script><script>alert(1)</script>&\x1b[31m"


def case(case_id, quality, *, is_done=True, message="", volumes=(1.5, 0.0)):
    return ReportedCase(case_id, is_done, quality, seconds=2.0, message=message, volumes_ml=volumes)


def content_of(page: str):
    [text] = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    return json.loads(text)


def make_page(cases, slices=None, names=("liver", "spleen")):
    return format_report(cases, names=names, slices=slices or {}, version="1.0", model="run")


def test_the_worst_cases_are_viewed_and_failed_ones_never(monkeypatch):
    monkeypatch.setattr(report, "MOST_VIEWED", 3)
    cases = [case("a", 0.9), case("b", 0.5), case("bad", None, is_done=False), case("none", None), case("c", 0.7)]
    assert choose_viewed(cases) == ["none", "b", "c"]


def test_the_page_holds_every_case_and_loads_nothing():
    page = make_page([case("a", 0.9), case("bad", None, is_done=False, message="it ends after 52 %", volumes=())])
    content = content_of(page)
    assert [one["case"] for one in content["cases"]] == ["a", "bad"]
    assert [one["found"] for one in content["cases"]] == [1, 0]
    assert content["organs"][0] == {"name": "liver", "color": "#1f77b4", "rgb": [31, 119, 180]}
    assert "2 cases, 1 failed" in page and "default-src 'none'" in page
    assert not re.search(r"(src|href)\s*=|https?://", page.replace("picture.src = url", ""))


def test_names_can_neither_end_the_script_nor_become_html():
    page = format_report([case(NASTY, 0.5, message=NASTY)], names=[NASTY], slices={}, version="1", model=NASTY)
    assert page.count("<script") == 2 and "alert(1)</script>" not in page and "\x1b" not in page
    content = content_of(page)
    assert content["cases"][0]["case"].startswith("</script><script>alert(1)</script>&")


BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVE = """
<script>
(async () => {
  const wait = () => new Promise((done) => setTimeout(done, 300));
  const names = () => [...document.querySelectorAll("tbody tr td:first-child")].map((cell) => cell.textContent);
  const color = (x, y) => {
    const canvas = document.querySelector("canvas");
    const place = [Math.floor(x * canvas.width), Math.floor(y * canvas.height)];
    return [...canvas.getContext("2d").getImageData(...place, 1, 1).data].slice(0, 3);
  };
  const seen = {};
  await wait();
  seen.first = document.querySelector("#viewer h2").textContent;
  seen.worst_first = names();
  document.querySelectorAll("th button")[0].click();
  seen.by_name = names();
  document.querySelectorAll("th button")[0].click();
  seen.by_name_backwards = names();
  [...document.querySelectorAll("tbody tr")].find((row) => row.cells[0].textContent === "b").click();
  await wait();
  seen.chosen = document.querySelector("#viewer h2").textContent;
  document.querySelector("#opacity").value = 100;
  const slider = document.querySelector("#slice");
  const go = (number) => { slider.value = number; slider.dispatchEvent(new Event("input")); };
  go(0);
  seen.number = document.querySelector("#number").textContent;
  seen.liver = color(0.25, 0.25);
  seen.spleen = color(0.75, 0.75);
  document.querySelectorAll("#organs input")[0].click();
  seen.liver_hidden = color(0.25, 0.25);
  seen.spleen_still = color(0.75, 0.75);
  document.querySelector("#none").click();
  seen.spleen_hidden = color(0.75, 0.75);
  document.querySelector("#all").click();
  go(1);
  seen.other_slice = color(0.25, 0.25);
  [...document.querySelectorAll("tbody tr")].find((row) => row.cells[0].textContent === "bad").click();
  await wait();
  seen.failed_note = document.querySelector(".note").textContent;
  document.body.innerHTML = "";
  const result = document.createElement("pre");
  result.id = "result";
  result.textContent = JSON.stringify(seen);
  document.body.append(result);
})();
</script>
"""


def open_in_browser(page: Path, *options: str) -> str:
    assert BROWSER is not None
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=20000", *options]
    folder = f"--user-data-dir={page.parent / 'profile'}"
    done = subprocess.run([*command, folder, page.as_uri()], capture_output=True, text=True, timeout=120, check=True)
    return done.stdout


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here: apt-get install chromium")
def test_the_page_works_in_a_browser(tmp_path):
    labels = np.zeros((4, 8, 8), np.uint8)
    labels[1, 4:, 4:], labels[1, :4, :4] = 1, 3  # on the picture: above left, below right
    labels[2, :4, :4] = 3
    image = np.zeros(labels.shape, np.int16)
    image[:, ::2] = 100
    scan = Scan(image, ImageGeometry.from_spacing(labels.shape, (1, 1, 1)))
    packed = pack_slices(scan, labels, values=[1, 3], slice_axis="z")
    cases = [
        case("a", 0.9),
        case("b", 0.8),
        case("c", 0.4),
        case("bad", None, is_done=False, message="it is <b>cut</b> off", volumes=(0.0, 0.0)),
    ]
    slices = {name: packed for name in ("a", "b", "c")}
    page = tmp_path / "page.html"
    page.write_text(make_page(cases, slices).replace("</body>", DRIVE + "</body>"), encoding="utf-8")
    [text] = re.findall(r'<pre id="result">(.*?)</pre>', open_in_browser(page, "--dump-dom"))
    seen = json.loads(text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
    assert seen["first"] == "c" and seen["worst_first"] == ["bad", "c", "b", "a"]
    assert (seen["by_name"], seen["by_name_backwards"]) == (["bad", "a", "b", "c"], ["bad", "c", "b", "a"])
    assert seen["chosen"] == "b" and seen["number"] == "z = 1"
    liver, spleen = [31, 119, 180], [255, 127, 14]
    assert seen["liver"] == liver and seen["spleen"] == seen["spleen_still"] == spleen
    for name in ("liver_hidden", "spleen_hidden", "other_slice"):
        grey = seen[name]
        assert max(grey) - min(grey) <= 2, name
    assert seen["failed_note"] == "it is <b>cut</b> off"
