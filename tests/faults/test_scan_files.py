"""Files that are cut off, damaged, of another kind or of another shape: in plan and in predict."""

import json
import os

import nibabel as nib
import numpy as np
import pytest
from bad_cases import assert_refused, assert_used, plan_and_predict, write_dataset
from damage import (
    ANNEX_POINTER,
    LFS_POINTER,
    SERVERS_WORDS,
    TAR,
    WEB_PAGE,
    ZIP,
    bomb,
    cut,
    flipped,
    metaimage,
    nifti,
    nrrd,
    packed,
    with_fields,
)
from small_data import draw_image, draw_labels

IMAGE, LABELS = draw_image(7), draw_labels()
PLAIN, PLAIN_LABEL = nifti(IMAGE), nifti(LABELS)
PACKED = packed(PLAIN)
NRRD, MHA = nrrd(IMAGE), metaimage(IMAGE)
VOXEL_BYTES = IMAGE.nbytes
AT_52 = len(PLAIN) - VOXEL_BYTES + int(0.525 * VOXEL_BYTES)
ALSO_FILES = ("uncertainty", "probabilities", "seg.nrrd", "masks")
COPY = "Copy or download"
HUGE = (3, 32767, 32767, 32767, 1, 1, 1, 1)
RGB = nib.Nifti1Image(np.zeros((24, 20, 6), [("R", "u1"), ("G", "u1"), ("B", "u1")]), np.eye(4)).to_bytes()
COMPLEX = nifti(IMAGE.astype(np.complex64))

IMAGES = {
    "cut_packed.nii.gz": packed(PLAIN[:AT_52]),
    "cut_plain.nii": PLAIN[:AT_52],
    "cut_stream.nii.gz": cut(PACKED, 0.5),
    "cut_header.nii": PLAIN[:200],
    "cut_check.nii.gz": PACKED[:-4],
    "cut_nrrd.nrrd": cut(NRRD, 0.5),
    "cut_mha.mha": cut(metaimage(IMAGE, is_packed=True), 0.7),
    "header_alone.nii.gz": packed(PLAIN[:352]),
    "flipped.nii.gz": flipped(PACKED, len(PACKED) // 2),
    "flipped_check.nii.gz": flipped(PACKED, -6),
    "flipped_nrrd.nrrd": flipped(nrrd(IMAGE, is_packed=True), -6),
    "flipped_mha.mha": flipped(metaimage(IMAGE, is_packed=True), -2),
    "empty.nii.gz": b"",
    "empty_plain.nii": b"",
    "empty_nrrd.nrrd": b"",
    "empty_inside.nii.gz": packed(b""),
    "web_page.nii.gz": WEB_PAGE,
    "web_page_packed.nii.gz": packed(WEB_PAGE),
    "lfs.nii.gz": LFS_POINTER,
    "annex.mha": ANNEX_POINTER,
    "words.nii.gz": SERVERS_WORDS,
    "zip.nii.gz": ZIP,
    "tar.nii.gz": packed(TAR),
    "twice.nii.gz": packed(PACKED),
    "rubbish.nii.gz": bytes(range(128, 256)) * 5,
    "gzip_as_nii.nii": packed(nifti(draw_image(1001))),
    "plain_as_gz.nii.gz": nifti(draw_image(1002)),
    "nrrd_as_nifti.nii.gz": nrrd(draw_image(1003)),
    "nifti_as_mha.mha": packed(nifti(draw_image(1004))),
    "one_4d.nii.gz": packed(nifti(draw_image(1005)[None])),
    "one_5d.nii.gz": packed(nifti(draw_image(1006)[None, None])),
    "four_4d.nii.gz": packed(nifti(np.stack([IMAGE] * 4))),
    "vector.nii.gz": packed(nifti(np.stack([IMAGE] * 3)[:, None])),
    "four_nrrd.nrrd": nrrd(np.stack([IMAGE] * 4), space_directions="(1,0,0) (0,1,0) (0,0,1) none"),
    "colors.nii.gz": packed(RGB),
    "complex.nii.gz": packed(COMPLEX),
    "bits.nii.gz": packed(with_fields(PLAIN, datatype=1, bitpix=1)),
    "wide.nii.gz": packed(with_fields(PLAIN, datatype=1536, bitpix=128)),
    "colors_mha.mha": metaimage(IMAGE, ElementNumberOfChannels="3"),
    "no_size.nii.gz": packed(with_fields(PLAIN, dim=(3, 0, 20, 6, 1, 1, 1, 1))),
    "below_0.nii.gz": packed(with_fields(PLAIN, dim=(3, 24, -20, 6, 1, 1, 1, 1))),
    "huge.nii.gz": packed(with_fields(PLAIN, dim=HUGE)),
    "huge_nrrd.nrrd": nrrd(IMAGE, sizes="32767 32767 32767"),
    "huge_mha.mha": metaimage(IMAGE, DimSize="32767 32767 32767"),
    "large.nii.gz": packed(with_fields(PLAIN, dim=(3, 1000, 1000, 1000, 1, 1, 1, 1))),
    "far.nii.gz": packed(with_fields(PLAIN, vox_offset=4e9)),
    "bomb.nii.gz": bomb(PLAIN),
    "analyze.nii.gz": packed(with_fields(PLAIN, magic=b"")),
    "magic.nii.gz": packed(with_fields(PLAIN, magic=b"n+9\0")),
    "pair.nii": with_fields(PLAIN, magic=b"ni1\0"),
    "offset.nii.gz": packed(with_fields(PLAIN, vox_offset=100.0)),
    "bitpix.nii.gz": packed(with_fields(PLAIN, bitpix=16)),
    "pair_mha.mha": MHA.replace(b"= LOCAL", b"= a.raw"),
    "pair_nrrd.nrrd": nrrd(IMAGE, data_file="a.raw"),
}
BAD_LABELS = {
    "label_cut.nii.gz": packed(PLAIN_LABEL[:-10]),
    "label_flipped.nii.gz": flipped(packed(PLAIN_LABEL), -6),
    "label_empty.nii.gz": b"",
    "label_page.nii.gz": WEB_PAGE,
    "label_4d.nii.gz": packed(nifti(np.stack([LABELS] * 2))),
    "label_colors.nii.gz": packed(RGB),
    "label_huge.nii.gz": packed(with_fields(PLAIN_LABEL, dim=HUGE)),
    "label_analyze.nii.gz": packed(with_fields(PLAIN_LABEL, magic=b"")),
    "label_cut_mha.mha": cut(metaimage(LABELS), 0.9),
    "label_huge_nrrd.nrrd": nrrd(LABELS, sizes="32767 32767 32767"),
    "label_nrrd.nrrd": nrrd(LABELS, is_packed=True),
    "label_plain.nii.gz": PLAIN_LABEL,
    "label_one_4d.nii.gz": packed(nifti(LABELS[None])),
}


@pytest.fixture(scope="module")
def both(model_file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    return plan_and_predict(write_dataset(folder / "data", IMAGES, BAD_LABELS), model=model_file, to=folder)


@pytest.mark.fault("truncated-scan")
@pytest.mark.parametrize(
    ("name", "fault", "remedy"),
    [
        ("cut_packed.nii.gz", "ends after 52 % of the voxels (24 x 20 x 6 of float32)", COPY),
        ("cut_plain.nii", "ends after 52 % of the voxels", COPY),
        ("cut_stream.nii.gz", "ends after 4", COPY),
        ("cut_header.nii", "ends inside its header, after 200 bytes", COPY),
        ("cut_check.nii.gz", "the packed data has no end", COPY),
        ("cut_nrrd.nrrd", "ends after 4", COPY),
        ("cut_mha.mha", "ends after ", COPY),
        ("header_alone.nii.gz", "ends after 0 % of the voxels", COPY),
    ],
)
def test_a_cut_off_image_is_refused_with_the_share_that_is_there(both, name, fault, remedy):
    assert_refused(both, name, fault, remedy)


@pytest.mark.fault("flipped-byte")
@pytest.mark.parametrize("name", [name for name in IMAGES if name.startswith("flipped")])
def test_a_flipped_byte_is_found_by_the_checksum_at_the_end(both, name):
    assert_refused(both, name, "is damaged: its packed data fails the check", COPY)


@pytest.mark.fault("empty-file")
@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("empty.nii.gz", "is empty (0 bytes)"),
        ("empty_plain.nii", "is empty (0 bytes)"),
        ("empty_nrrd.nrrd", "is empty (0 bytes)"),
        ("empty_inside.nii.gz", "is packed, but holds nothing"),
    ],
)
def test_an_empty_image_is_refused(both, name, fault):
    assert_refused(both, name, fault, "opy or download it again")


@pytest.mark.fault("other-kind")
@pytest.mark.parametrize(
    ("name", "fault", "remedy"),
    [
        ("web_page.nii.gz", "is a web page, not a scan", "Download the file again"),
        ("web_page_packed.nii.gz", ", unpacked, is a web page", "Download the file again"),
        ("lfs.nii.gz", "is a Git LFS pointer", "Run `git lfs pull`"),
        ("annex.mha", "is a git-annex pointer", "Run `git annex get`"),
        ("words.nii.gz", "is text, not a scan", "get the file again"),
        ("zip.nii.gz", "is a zip archive", "Unpack it"),
        ("tar.nii.gz", ", unpacked, is a tar archive", "Unpack it"),
        ("twice.nii.gz", "packed by gzip once more", "Unpack it once"),
        ("rubbish.nii.gz", "is not a NIfTI file", "Convert it to .nii.gz"),
    ],
)
def test_a_file_of_another_kind_is_called_what_it_is(both, name, fault, remedy):
    assert_refused(both, name, fault, remedy)


@pytest.mark.fault("wrong-ending")
@pytest.mark.parametrize("name", ["gzip_as_nii.nii", "plain_as_gz.nii.gz", "nrrd_as_nifti.nii.gz", "nifti_as_mha.mha"])
def test_the_first_bytes_decide_and_not_the_name(both, name):
    assert_used(both, name)


@pytest.mark.fault("one-volume-4d")
@pytest.mark.parametrize("name", ["one_4d.nii.gz", "one_5d.nii.gz"])
def test_one_volume_of_four_dimensions_is_that_volume(both, name):
    assert_used(both, name)
    written = nib.load(both.output / name)
    assert int(np.prod(written.shape)) == IMAGE.size


@pytest.mark.fault("several-volumes-4d")
@pytest.mark.parametrize(
    ("name", "fault", "remedy"),
    [
        ("four_4d.nii.gz", "is a 4D file with 4 volumes; expected one", "Save each as a file of its own"),
        ("vector.nii.gz", "holds 3 values in each voxel", "Save each component as a file of its own"),
        ("four_nrrd.nrrd", "expected one volume of grey values", "Save each volume"),
    ],
)
def test_several_volumes_are_refused_where_one_channel_is_expected(both, name, fault, remedy):
    assert_refused(both, name, fault, remedy)


@pytest.mark.fault("several-volumes-4d")
def test_several_volumes_are_the_channels_of_a_decathlon_dataset(command, tmp_path, save_scan):
    root = tmp_path / "decathlon"
    for number in range(2):
        save_scan(root / "imagesTr" / f"case_{number}.nii.gz", np.stack([draw_image(number), draw_image(number + 5)]))
        save_scan(root / "labelsTr" / f"case_{number}.nii.gz", LABELS)
    save_scan(root / "imagesTr" / "case_2.nii.gz", np.stack([IMAGE] * 3))
    save_scan(root / "labelsTr" / "case_2.nii.gz", LABELS)
    files = [
        {"image": f"./imagesTr/case_{number}.nii.gz", "label": f"./labelsTr/case_{number}.nii.gz"}
        for number in range(3)
    ]
    names = {"modality": {"0": "T1", "1": "T2"}, "labels": {"0": "background", "1": "liver", "2": "spleen"}}
    (root / "dataset.json").write_text(json.dumps({**names, "training": files}))
    planned = command("plan", root, "-o", tmp_path / "run", "--num-workers", 1, "--on-bad", "skip")
    assert planned.code == 3
    assert "case_2.nii.gz holds 3 volumes; expected 2 channels (T1, T2)" in planned.text
    record = json.loads((tmp_path / "run" / "preprocessed" / "case_0" / "case.json").read_text(encoding="utf-8"))
    assert record["shape"][0] == 2


@pytest.mark.fault("flat-image")
def test_a_flat_image_is_one_slice(command, tmp_path, save_scan, model_file):
    for number in range(2):
        save_scan(tmp_path / "data" / "imagesTr" / f"flat_{number}_0000.nii.gz", draw_image(number)[3])
        save_scan(tmp_path / "data" / "labelsTr" / f"flat_{number}.nii.gz", LABELS[3])
    content = {"channel_names": {"0": "MRI"}, "labels": {"background": 0, "liver": 1, "spleen": 2}}
    (tmp_path / "data" / "dataset.json").write_text(json.dumps(content))
    planned = command("plan", tmp_path / "data", "-o", tmp_path / "run", "--num-workers", 1)
    assert planned.code == 0, planned.text
    predicted = command("predict", "-m", model_file, "-i", tmp_path / "data" / "imagesTr", "-o", tmp_path / "out")
    assert predicted.code == 0, predicted.text
    for number in range(2):
        written = nib.load(tmp_path / "out" / f"flat_{number}.nii.gz")
        assert written.shape[:2] == (24, 20) and np.prod(written.shape) == 24 * 20


@pytest.mark.fault("color-image")
@pytest.mark.parametrize(
    ("name", "fault", "remedy"),
    [
        (
            "colors.nii.gz",
            "stores RGB colors in its voxels; expected grey values",
            "Convert it to one number a voxel",
        ),
        ("complex.nii.gz", "stores complex numbers", "Convert it"),
        ("bits.nii.gz", "stores single bits", "Convert it"),
        ("wide.nii.gz", "stores floats of 128 bits", "Convert it"),
        ("colors_mha.mha", "holds several values in each voxel; expected grey values", "Convert it"),
    ],
)
def test_voxels_that_are_no_grey_values_are_refused(both, name, fault, remedy):
    assert_refused(both, name, fault, remedy)


@pytest.mark.fault("impossible-size")
@pytest.mark.parametrize(
    ("name", "fault", "remedy"),
    [
        ("no_size.nii.gz", "the header's sizes are [0, 20, 6]; expected at least 1 each", "Repair the header"),
        ("below_0.nii.gz", "the header's sizes are [24, -20, 6]", "Repair the header"),
        ("huge.nii.gz", "claims 32767 x 32767 x 32767 voxels of float32, over the limit of 8 GiB", "repair its header"),
        ("huge_nrrd.nrrd", "claims 32767 x 32767 x 32767 voxels", "Repair the header"),
        ("huge_mha.mha", "claims 32767 x 32767 x 32767 voxels", "Repair the header"),
        ("large.nii.gz", "ends after at most 0 % of the voxels", COPY),
        ("far.nii.gz", "ends after at most 0 % of the voxels", COPY),
        ("bomb.nii.gz", "continues for more than 16 MiB after the voxels", "export it again"),
    ],
)
def test_a_size_that_cannot_be_is_refused(both, name, fault, remedy):
    assert_refused(both, name, fault, remedy)


@pytest.mark.fault("not-nifti")
@pytest.mark.parametrize(
    ("name", "fault", "remedy"),
    [
        ("analyze.nii.gz", "is an ANALYZE 7.5 file, which does not say left from right", "Convert it to .nii.gz"),
        ("magic.nii.gz", "the header's magic is b'n+9", "The file is damaged"),
        ("pair.nii", "is the header of an .hdr/.img pair", "Convert the pair to one .nii.gz file"),
        ("offset.nii.gz", "vox_offset is 100; expected a whole number of at least 352", "export the file again"),
        ("bitpix.nii.gz", "16 bits a voxel, but its datatype float32 has 32", "export the file again"),
        ("pair_mha.mha", "its voxels lie in another file", "Save header and voxels as one .mha file"),
        ("pair_nrrd.nrrd", "its voxels lie in another file", "Save header and voxels as one .nrrd file"),
    ],
)
def test_what_is_no_single_nifti_file_is_refused(both, name, fault, remedy):
    assert_refused(both, name, fault, remedy)


@pytest.mark.fault("truncated-scan")
@pytest.mark.parametrize(
    ("name", "fault", "remedy"),
    [
        ("label_cut.nii.gz", "ends after 99 % of the voxels", COPY),
        ("label_cut_mha.mha", "ends after 8", COPY),
        pytest.param("label_huge_nrrd.nrrd", "claims", "Repair", marks=pytest.mark.fault("impossible-size")),
        pytest.param("label_flipped.nii.gz", "fails the check", COPY, marks=pytest.mark.fault("flipped-byte")),
        pytest.param("label_empty.nii.gz", "is empty", COPY, marks=pytest.mark.fault("empty-file")),
        pytest.param("label_page.nii.gz", "is a web page", "Download", marks=pytest.mark.fault("other-kind")),
        pytest.param("label_4d.nii.gz", "with 2 volumes", "Save each", marks=pytest.mark.fault("several-volumes-4d")),
        pytest.param("label_colors.nii.gz", "RGB colors", "Convert it", marks=pytest.mark.fault("color-image")),
        pytest.param("label_huge.nii.gz", "over the limit", "repair", marks=pytest.mark.fault("impossible-size")),
        pytest.param("label_analyze.nii.gz", "ANALYZE 7.5", "Convert it", marks=pytest.mark.fault("not-nifti")),
    ],
)
def test_a_bad_label_map_is_refused_as_a_bad_image_is(both, name, fault, remedy):
    assert_refused(both, name, fault, remedy, as_label=True)


@pytest.mark.fault("wrong-ending")
def test_a_label_map_too_is_reported_by_its_first_bytes(both):
    assert_used(both, "label_plain.nii.gz", as_label=True)
    assert_used(both, "label_nrrd.nrrd", as_label=True)
    assert_used(both, "label_one_4d.nii.gz", as_label=True)


@pytest.mark.fault("truncated-scan")
@pytest.mark.parametrize(
    "name", ["cut_stream.nii.gz", "empty.nii.gz", "web_page.nii.gz", "huge_nrrd.nrrd", "bomb.nii.gz"]
)
def test_a_bad_scan_alone_leaves_nothing_usable(command, tmp_path, model_file, name):
    path = tmp_path / name
    path.write_bytes(IMAGES[name])
    outcome = command("predict", "-m", model_file, "-i", path, "-o", tmp_path / "out", "--also", *ALSO_FILES)
    assert outcome.code == 4
    assert name in outcome.text and "None of the 1 cases" in outcome.text
    cases = json.loads((tmp_path / "out" / "run.json").read_text(encoding="utf-8"))["cases"]
    assert [case["is_done"] for case in cases] == [False]
    assert not list((tmp_path / "out").rglob("*.nii.gz"))


ROWS = b"\x28\x00\x10\x00\x02\x00\x00\x00\x14\x00"  # the element (0028,0010) of 20 rows


@pytest.fixture
def series(save_dicom, tmp_path):
    """Give a folder of DICOM series: one good, to be damaged, and one that stays good."""
    for name in ("bad", "good"):
        save_dicom(tmp_path / "scans" / name, (draw_image(1) * 10).astype(np.int16))
    return tmp_path / "scans"


@pytest.mark.fault("truncated-scan")
@pytest.mark.parametrize(
    ("damage", "fault", "remedy"),
    [
        ("cut", "003.dcm is damaged: its element (7fe0,0010) claims 960 bytes where 860 are left", "Copy it again"),
        ("empty", "003.dcm is empty, or does not begin as DICOM files do", "Copy it again"),
        pytest.param(
            *("long", "24 x 65535 pixels of 16 bits do not fit into the picture that it holds", "Copy it again"),
            marks=pytest.mark.fault("impossible-size"),
        ),
        ("missing", "slices 3 and 4 of 5 lie 8 mm apart, others 4 mm: a slice is missing", "Export the series again"),
        ("mixed", "holds 2 DICOM series; expected one", "Put each series into a folder of its own"),
        ("resolutions", "differ in the spacing of their pixels", "Export the series again"),
        pytest.param(
            *("pipe", "bad/pipe is a pipe", "Take it out of the folder"), marks=pytest.mark.fault("no-regular-file")
        ),
    ],
)
def test_a_damaged_dicom_series_is_refused_and_the_other_one_predicted(
    command, series, save_dicom, tmp_path, model_file, damage, fault, remedy
):
    path = sorted((series / "bad").iterdir())[3]
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "long":
        path.write_bytes(path.read_bytes().replace(ROWS, ROWS[:-2] + b"\xff\xff"))
    elif damage == "missing":
        path.unlink()
    elif damage == "mixed":
        save_dicom(series / "bad", np.zeros((3, 20, 24), np.int16), series="1.2.4")
    elif damage == "resolutions":
        save_dicom(tmp_path / "other", np.zeros((6, 20, 24), np.int16), spacing_xyz_mm=(9.0, 9.0, 4.0))
        (tmp_path / "other" / path.name).replace(path)
    else:
        os.mkfifo(series / "bad" / "pipe")
    outcome = command("predict", "-m", model_file, "-i", series, "-o", tmp_path / "out")
    assert outcome.code == 3
    bad, good = json.loads((tmp_path / "out" / "run.json").read_text(encoding="utf-8"))["cases"]
    assert (bad["case_id"], bad["is_done"], good["case_id"], good["is_done"]) == ("bad", False, "good", True)
    for words in ("bad", fault, remedy):
        assert words in bad["message"] and words in outcome.text
    assert [path.name for path in (tmp_path / "out").glob("*.nii.gz")] == ["good.nii.gz"]
