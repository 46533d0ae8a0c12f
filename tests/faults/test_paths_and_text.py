"""Paths that lead out of a folder, names of patients in headers, and names that are markup or formulas."""

import base64
import csv
import gzip
import html.parser
import io
import json
import re
import socket
import zipfile
import zlib

import blosc2
import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from autoseg.datasets.prediction_inputs import find_cases
from autoseg.errors import DatasetError
from autoseg.io.image import read_label_names, read_scan

patient_text = pytest.mark.fault("patient-text")
markup = pytest.mark.fault("markup-and-formulas")
paths_outside = pytest.mark.fault("paths-outside")

NAME = b"DOE^JANE"
# as it stands, in two bytes a letter, and as the three beginnings that base64 can give it
HIDDEN_NAMES = (NAME, NAME.decode().encode("utf-16-le"), b"RE9FXkpBTk", b"ET0VeSkFOR", b"RPRV5KQU5F")


def layers(content):
    """Give a file's bytes, and what is packed inside them."""
    yield content
    if content[:2] == b"\x1f\x8b":
        yield from layers(gzip.decompress(content))
    elif content[:4] == b"PK\x03\x04":
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for name in archive.namelist():
                yield from layers(archive.read(name))
    elif content[:4] == b"NRRD":
        yield from layers(content.partition(b"\n\n")[2])
    elif content[:4] == b"\x89PNG":
        for kind, body in png_chunks(content):
            yield zlib.decompress(body.partition(b"\0")[2][1:]) if kind == b"zTXt" else body
    elif content[1:10] == b"\xa8b2frame\0":
        yield np.ascontiguousarray(blosc2.ndarray_from_cframe(content)[:]).tobytes()
    for url in re.findall(rb"data:image/\w+;base64,([A-Za-z0-9+/=]+)", content):
        yield from layers(base64.b64decode(url))
    for header in re.findall(rb'"header": "([A-Za-z0-9+/=]+)"', content):
        yield base64.b64decode(header)


def png_chunks(content):
    place = 8
    while place < len(content):
        size = int.from_bytes(content[place : place + 4], "big")
        yield content[place + 4 : place + 8], content[place + 8 : place + 8 + size]
        place += 12 + size


def written(whole_way):
    """Give every file of the run and of the predictions, with all of its layers."""
    files = [path for folder in ("run", "out") for path in (whole_way.folder / folder).rglob("*") if path.is_file()]
    kinds = {path.name.partition(".")[2] if path.name[0] != "." else "" for path in files}
    assert {"safetensors", "pt", "b2nd", "nii.gz", "seg.nrrd", "png", "html", "csv", "json", "jsonl"} <= kinds
    return {path: tuple(layers(path.read_bytes())) for path in files}


@patient_text
def test_the_search_finds_a_name_in_every_layer(tmp_path):
    png = io.BytesIO()
    Image.new("L", (2, 2)).save(png, format="PNG")
    text = zlib.compress(NAME)
    chunk = b"zTXtComment\0\0" + text
    inside = png.getvalue()[:33] + len(text + b"Comment\0\0").to_bytes(4, "big") + chunk + b"crcc" + png.getvalue()[33:]
    pack = io.BytesIO()
    with zipfile.ZipFile(pack, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a", NAME * 9)
    array = np.frombuffer(NAME * 4000, np.uint8).copy()
    hidden = (
        *(gzip.compress(NAME), inside, pack.getvalue(), blosc2.asarray(array, contiguous=True).to_cframe()),
        *(b'"header": "' + base64.b64encode(b"x" + NAME) + b'"', b"NRRD0004\n\n" + gzip.compress(NAME)),
        *(base64.b64encode(b" " * shift + NAME + b"  ") for shift in range(3)),
    )
    for content in hidden:
        assert any(name in layer for layer in layers(content) for name in HIDDEN_NAMES), content


@patient_text
def test_no_text_of_a_header_reaches_a_file_or_the_terminal(whole_way):
    dataset = [path for path in (whole_way.folder / "data").rglob("*") if path.is_file()]
    assert len(dataset) == 13 and all(any(NAME in layer for layer in layers(p.read_bytes())) for p in dataset)
    found = [
        path for path, parts in written(whole_way).items() for part in parts for name in HIDDEN_NAMES if name in part
    ]
    assert found == []
    assert NAME.decode() not in whole_way.text


@patient_text
def test_no_file_and_no_line_names_the_user_the_machine_or_a_folder_above(whole_way):
    secrets = ["secret_place_of_jane", "user_jane_doe"]
    secrets += [socket.gethostname()] if len(socket.gethostname()) > 6 else []
    found = {
        (path.name, secret)
        for path, parts in written(whole_way).items()
        for part in parts
        for secret in secrets
        if secret.encode() in part
    }
    assert found == set()
    assert [secret for secret in secrets if secret in whole_way.text] == []


@patient_text
def test_a_scan_that_cannot_be_read_is_named_by_folder_and_name(command, model_file, tmp_path, make_dataset):
    scans = make_dataset(1) / "imagesTr"
    (scans / "bad_0000.nii.gz").write_bytes(gzip.compress(bytes(400)))
    outcome = command("predict", "-m", model_file, "-i", scans, "-o", tmp_path / "out")
    assert outcome.code == 3
    for name in ("run.json", "report.html"):
        content = (tmp_path / "out" / name).read_text(encoding="utf-8")
        assert "imagesTr/bad_0000.nii.gz" in content and str(tmp_path) not in content


@patient_text
def test_an_error_of_the_system_is_reported_without_the_whole_path(
    command, model_file, tmp_path, make_dataset, monkeypatch
):
    def refuse(*_arguments):
        raise OSError(13, "Permission denied", str(tmp_path / "out" / "preview" / "x.png"))

    monkeypatch.setattr("autoseg.export.case_files.draw_preview", refuse)
    scans = make_dataset(1) / "imagesTr"
    outcome = command("predict", "-m", model_file, "-i", scans, "-o", tmp_path / "out")
    assert outcome.code == 4
    assert "preview/x.png: Permission denied" in outcome.text
    assert str(tmp_path) not in (tmp_path / "out" / "run.json").read_text(encoding="utf-8")


class Page(html.parser.HTMLParser):
    """The elements and attributes of a page, and the text of its scripts."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.elements, self.attributes, self.scripts = [], set(), []

    def handle_starttag(self, tag, attrs):
        self.elements.append(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data):
        if self.elements and self.elements[-1] == "script" and self.scripts:
            self.scripts[-1] += data


@markup
def test_the_report_holds_names_as_text_alone(whole_way):
    text = (whole_way.folder / "out" / "report.html").read_text(encoding="utf-8")
    page = Page()
    page.feed(text)
    assert page.elements.count("script") == 2 and "img" not in page.elements and "b" not in page.elements
    assert not {name for name in page.attributes if name.startswith("on")}
    assert not set(page.scripts[0]) & set("<>&")
    content = json.loads(page.scripts[0])
    assert len(content["organs"]) == 17 and len(content["cases"]) == 7
    names = {organ["name"] for organ in content["organs"]}
    assert "<script>alert(1)</script>" in names and r"\u202egnp.exe" in names and r"zero\u200bwidth" in names
    assert all(name.isprintable() for name in names)
    assert all(case["case"].isprintable() for case in content["cases"])
    assert "Content-Security-Policy" in text and "default-src 'none'" in text


@markup
def test_no_cell_is_a_formula_and_no_row_is_split(whole_way):
    out = whole_way.folder / "out"
    rows = list(csv.reader(io.StringIO((out / "statistics.csv").read_text(encoding="utf-8"))))
    assert len(rows) == 1 + 7 * 17 and {len(row) for row in rows} == {14}
    names = [cell for row in rows[1:] for cell in row[:2]]
    table = [line.split("\t") for line in (out / "labels.tsv").read_text(encoding="utf-8").splitlines()]
    assert len(table) == 18 and {len(row) for row in table} == {3}
    names += [row[1] for row in table]
    assert "'=cmd|' /C calc'!A0" in names and "'=cmd" in names and "'-1-1" in names
    assert not [name for name in names if name.lstrip()[:1] in "=+-@\uff1d" or not name.isprintable()]


@markup
def test_tables_for_slicer_hold_one_line_a_label(whole_way):
    out = whole_way.folder / "out"
    lines = (out / "labels.ctbl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 2 + 17 and all(len(line.split(" ")) == 6 and line.isprintable() for line in lines[1:])
    head = (out / "plain.seg.nrrd").read_bytes().partition(b"\n\n")[0].decode("utf-8")
    fields = [line.partition(":=")[0] for line in head.split("\n") if ":=" in line]
    assert len(fields) == len(set(fields)) == 17 * 8 + 3
    assert r"Segment11_Name:=new\\nSegment0_Name:=evil\\n\\nNRRD" in head.split("\n")
    read_scan(out / "plain.seg.nrrd")


@markup
def test_json_gives_the_very_names_back_and_shows_no_control_character(whole_way):
    declared = {
        name.strip(): v
        for name, v in json.loads((whole_way.folder / "data" / "dataset.json").read_text(encoding="utf-8"))[
            "labels"
        ].items()
    }
    del declared["background"]
    assert json.loads((whole_way.folder / "out" / "labels.json").read_text(encoding="utf-8"))["labels"] == declared
    assert read_label_names(whole_way.folder / "out" / "plain.nii.gz") == {v: name for name, v in declared.items()}
    texts = [
        path for path in whole_way.folder.rglob("*") if path.suffix in (".json", ".jsonl", ".csv", ".tsv", ".html")
    ]
    ours = [path for path in texts if "data" not in path.relative_to(whole_way.folder).parts]
    assert len(ours) > 15
    for path in ours:
        for line in path.read_text(encoding="utf-8").split("\n"):
            assert line.replace("\t", "").isprintable(), (path.name, line)


@markup
def test_the_terminal_shows_names_escaped_and_no_line_is_forged(whole_way):
    assert [line for line in whole_way.text.split("\n") if not line.isprintable()] == []
    assert r"new\nline: " in whole_way.text and r"\x1b[31mred\x1b]8;;http://evil.example" in whole_way.text
    assert not re.search("^line", whole_way.text, flags=re.MULTILINE)


@markup
def test_names_of_organs_become_names_of_files_below_the_output(whole_way):
    out = whole_way.folder / "out"
    masks = sorted(path.relative_to(out).as_posix() for path in (out / "masks" / "plain").iterdir())
    assert len(masks) == 17 and all(re.fullmatch(r"masks/plain/\d+_\w+\.nii\.gz", name) for name in masks)
    assert "masks/plain/13_a_____________escape.nii.gz" in masks
    assert not [path for path in whole_way.folder.parent.rglob("*escape*") if out not in path.parents]


PATHS_OUTSIDE = (
    *("../../etc/passwd", "/etc/group", "imagesTr/../../secret.nii.gz", "..", "C:\\Windows\\win.ini", "c:x.nii.gz"),
    *("\\\\server\\share\\b.nii.gz", "..\\..\\d.nii.gz", "imagesTr/e\0.nii.gz", "//server/f.nii.gz", "\\g.nii.gz"),
)


@paths_outside
@pytest.mark.parametrize("kind", ["image", "label"])
def test_listed_paths_that_lead_out_are_refused_and_not_looked_at(make_dataset, command, kind):
    root = make_dataset(2)
    good = [{"image": f"imagesTr/good_{n}_0000.nii.gz", "label": f"labelsTr/good_{n}.nii.gz"} for n in range(2)]
    bad = [{**good[0], "image": f"imagesTr/bad_{n}.nii.gz", kind: path} for n, path in enumerate(PATHS_OUTSIDE)]
    content = json.loads((root / "dataset.json").read_text(encoding="utf-8")) | {"training": [good[1], *bad]}
    (root / "dataset.json").write_text(json.dumps(content))
    outcome = command("plan", root, "--check")
    assert outcome.code == 4
    assert outcome.text.count("leads out of the dataset's folder. Use paths inside it.") == len(PATHS_OUTSIDE)
    assert f"1 of {1 + len(PATHS_OUTSIDE)} cases can be used" in outcome.text
    assert command("plan", root, "--check", "--on-bad", "skip").code == 3
    assert "root:" not in outcome.text


@paths_outside
def test_a_case_of_a_table_whose_name_is_a_path_is_refused(make_dataset, command, model_file, tmp_path):
    scans = make_dataset(1) / "imagesTr"
    table = scans / "cases.csv"
    for name in ("../evil", "/tmp/evil", "a/b", "..", ".", "", "a\0b", "evil/"):
        table.write_bytes(f"case,0\ngood,good_0_0000.nii.gz\n{name},good_0_0000.nii.gz\n".encode())
        with pytest.raises(
            DatasetError, match=r"cases\.csv(, row 3: expected a name of a case| cannot be read as a table)"
        ):
            find_cases(table, channel_names=("MRI",))
    outcome = command("predict", "-m", model_file, "-i", table, "-o", tmp_path / "deep" / "out")
    assert outcome.code == 4
    assert "imagesTr/cases.csv, row 3: expected a name of a case and a path for each channel" in outcome.text
    assert not list(tmp_path.rglob("*evil*")) and not (tmp_path / "deep").exists()


@paths_outside
def test_a_link_inside_a_dataset_may_lead_out(make_dataset, command, model_file, tmp_path):
    """As in a dataset under git-annex or DataLad: what a user linked is the user's own."""
    root = make_dataset(1)
    scan = root / "imagesTr" / "good_0_0000.nii.gz"
    scan.rename(tmp_path / "content.nii.gz")
    scan.symlink_to(tmp_path / "content.nii.gz")
    before = (tmp_path / "content.nii.gz").read_bytes()
    assert command("plan", root, "--check").code == 0
    assert command("predict", "-m", model_file, "-i", root / "imagesTr", "-o", tmp_path / "out").code == 0
    assert (tmp_path / "content.nii.gz").read_bytes() == before


@paths_outside
def test_a_link_in_the_place_of_an_output_is_replaced_and_not_followed(make_dataset, command, model_file, tmp_path):
    scans = make_dataset(1) / "imagesTr"
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "out" / "preview").mkdir(parents=True)
    for name in ("good_0.nii.gz", "report.html", "run.json", "labels.json", "statistics.csv", "preview/good_0.png"):
        (tmp_path / "out" / name).symlink_to(tmp_path / "precious")
    assert command("predict", "-m", model_file, "-i", scans, "-o", tmp_path / "out").code == 0
    assert (tmp_path / "precious").read_text(encoding="utf-8") == "mine"


@paths_outside
def test_a_resume_log_makes_nobody_remove_what_is_no_file_of_its_case(make_dataset, command, model_file, tmp_path):
    scans, out = make_dataset(3) / "imagesTr", tmp_path / "out"
    out.mkdir()
    (tmp_path / "precious").write_text("mine")
    (out / "notes.txt").write_text("mine")
    (out / "good_2.nii.gz").write_text("old")
    names = ("../precious", str(tmp_path / "precious"), "masks/../../precious", "good_0/../../precious", "notes.txt")
    lines = [{"case_id": "good_0", "files": {name: "0" * 64}} for name in names]
    lines += [
        {"case_id": "../precious", "files": {"../precious": "0"}},
        {"case_id": "..", "files": {"../precious": ""}},
    ]
    lines += [
        {"case_id": "good_1", "files": {"good_1.\0": "0"}},
        {"case_id": "good_2", "files": {"good_2.nii.gz": "0"}},
    ]
    rest = {"key": "old", "seconds": 1.0, "message": "", "organs": []}
    (out / "cases.jsonl").write_text("".join(json.dumps({**rest, **line}) + "\n" for line in lines))
    outcome = command("predict", "-m", model_file, "-i", scans, "-o", out)
    assert outcome.code == 0, outcome.text
    assert (
        (tmp_path / "precious").read_text(encoding="utf-8") == (out / "notes.txt").read_text(encoding="utf-8") == "mine"
    )
    assert [nib.load(out / f"good_{n}.nii.gz").shape for n in range(3)] == [(24, 20, 6)] * 3
