from autoseg.evaluation.label_names import read_dataset_labels
from autoseg.export.label_tables import format_ctbl, format_tsv, name_labels, write_label_tables

NAMES = {7: "left kidney", 2: "liver"}


def test_json_has_values_and_colors_by_name():
    assert name_labels(NAMES) == {
        "labels": {"liver": 2, "left kidney": 7},
        "colors": {"liver": "#1f77b4", "left kidney": "#ff7f0e"},
    }


def test_json_is_what_autoseg_reads_names_from(tmp_path):
    write_label_tables(tmp_path, NAMES)
    assert read_dataset_labels(tmp_path / "labels.json").names == NAMES


def test_ctbl_has_six_words_a_line():
    lines = format_ctbl(NAMES).splitlines()
    assert lines[1:] == ["0 background 0 0 0 0", "2 liver 31 119 180 255", "7 left_kidney 255 127 14 255"]


def test_tsv_is_that_of_bids():
    assert format_tsv(NAMES) == "index\tname\tcolor\n2\tliver\t#1f77b4\n7\tleft kidney\t#ff7f0e\n"


def test_a_name_with_tabs_and_newlines_breaks_no_line():
    names = {1: "a\tb\nc d"}
    assert len(format_tsv(names).splitlines()) == 2
    assert all(len(line.split(" ")) == 6 for line in format_ctbl(names).splitlines()[1:])
