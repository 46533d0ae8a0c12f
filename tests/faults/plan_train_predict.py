"""Plans, trains, predicts and evaluates a dataset full of names and markup, in a process of its own.

Run as `python plan_train_predict.py FOLDER` by the fixture `whole_way`. Network access is refused and logged in
`network.txt`, in this process and, by a module `sitecustomize`, in every process that it starts.
"""

import gzip
import json
import os
import sys
from pathlib import Path

MARK = "DOE^JANE"  # stands in every text field of every header, and must stand nowhere else
LABELS = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(2)>',
    "\x1b[31mred\x1b]8;;http://evil.example\x07link\x1b]8;;\x07",
    "\u202egnp.exe",
    "zero\u200bwidth",
    "=cmd|' /C calc'!A0",
    "+1+1",
    "-1-1",
    "@SUM(A1)",
    "x\t=tab",
    "cr\r=1",
    "new\nSegment0_Name:=evil\n\nNRRD",
    "a/../../../../escape",
    "$\\frac{",
    "<!-- &amp; {{ 7 * 7 }} {% raw %}",
    "back\\nslash",
    "\uff1dwide",
)
CASES = ("plain", "=cmd", "<img src=x onerror=alert(3)>", "esc\x1b[31m", "bidi\u202etxt", "new\nline")
SETTINGS = (
    *("network.image_size_px=32", "network.window_rows_px=32", "network.window_columns_px=32"),
    *("network.feature_channels=16", "network.refiner_channels=[4,16,16]", "network.refiner_stride=1"),
    *("training.batch_slices=2", "training.steps_per_epoch=2", "training.epochs=1", "training.num_folds=2"),
)
WATCH = """
import os, sys
def _hook(event, arguments, _log=os.environ["NETWORK_LOG"]):
    names = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "urllib.Request")
    if event in names and not (event == "socket.connect" and isinstance(arguments[1], (str, bytes))):
        with open(_log, "a") as file:
            file.write(f"{event} {arguments!r}\\n")
        raise OSError("no network in this test")
sys.addaudithook(_hook)
"""


def draw(number):
    """Give an image of noise and a label map with every organ in it, (z, y, x)."""
    import numpy as np

    rng = np.random.default_rng(number)
    labels = np.zeros((6, 20, 24), np.uint8)
    for k in range(len(LABELS)):
        row, column = divmod(k, 5)
        labels[1:5, 5 * row : 5 * row + 4, 4 * column : 4 * column + 3] = k + 1
    return (rng.normal(100, 10, labels.shape) + 10 * labels).astype(np.float32), labels


def nifti(array, *, with_sform):
    """Write a NIfTI file by hand, with the name in every byte that does not count."""
    import nibabel as nib
    import numpy as np

    header = nib.Nifti1Header()
    header.set_data_shape(array.shape[::-1])
    header.set_data_dtype(array.dtype)
    name = MARK.encode()
    header["descrip"], header["aux_file"], header["intent_name"], header["db_name"] = (name,) * 4
    header["data_type"] = name
    as_floats = np.frombuffer(name.ljust(16), "<f4")
    header["pixdim"][1:4] = 1
    header["pixdim"][4:8] = as_floats
    header["dim"][4:8] = np.frombuffer(name, "<i2")
    if with_sform:
        header.set_sform(np.eye(4), code=1)
        header["qform_code"], header["quatern_b"], header["quatern_c"] = 0, *as_floats[:2]
    else:
        header.set_qform(np.eye(4), code=1)
        header["sform_code"], header["srow_x"] = 0, as_floats
    extensions = b""
    for code, text in ((2, b"\x10\x00\x10\x00PN\x08\x00" + name), (4, b"<AFNI>" + name), (6, name)):
        size = -(-(len(text) + 8) // 16) * 16
        extensions += np.array([size, code], "<i4").tobytes() + text.ljust(size - 8, b"\0")
    header["vox_offset"] = 352 + len(extensions)
    header["magic"] = b"n+1"
    return header.binaryblock + b"\1\0\0\0" + extensions + array.tobytes() + name


def nrrd(array):
    sizes = " ".join(map(str, array.shape[::-1]))
    lines = [
        *("NRRD0004", f"# {MARK}", "type: float", "dimension: 3", "space: right-anterior-superior", f"sizes: {sizes}"),
        *("space directions: (1,0,0) (0,1,0) (0,0,1)", "encoding: raw", "endian: little", f"content: {MARK}"),
        *("space origin: (0,0,0)", f"PatientName:={MARK}", f"labels: {MARK}"),
    ]
    return ("\n".join(lines) + "\n\n").encode() + array.tobytes()


def mha(array):
    sizes = " ".join(map(str, array.shape[::-1]))
    lines = [
        *("ObjectType = Image", "NDims = 3", f"Comment = {MARK}", f"Name = {MARK}", f"PatientName = {MARK}"),
        *("BinaryData = True", "TransformMatrix = -1 0 0 0 -1 0 0 0 1", "Offset = 0 0 0", "ElementSpacing = 1 1 1"),
        *(f"DimSize = {sizes}", "ElementType = MET_FLOAT", "ElementDataFile = LOCAL"),
    ]
    return ("\n".join(lines) + "\n").encode() + array.tobytes()


def packed(content):
    """Give a gzip file whose own header names a file and holds a comment."""
    body = gzip.compress(content)
    return body[:3] + b"\x18" + body[4:10] + f"{MARK}.nii\0{MARK}\0".encode("ascii") + body[10:]


def write_series(folder, array):
    """Write a DICOM series, with the name in every tag of text."""
    import SimpleITK as sitk  # noqa: N813

    folder.mkdir(parents=True)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for number, plane in enumerate(array):
        image = sitk.GetImageFromArray(plane[None].astype("int16"))
        tags = dict.fromkeys(
            ("0010|0010", "0010|0020", "0008|0080", "0008|1030", "0008|103e", "0010|4000", "0008|0090", "0018|1030"),
            MARK,
        )
        tags |= {"0008|0060": "MR", "0020|000e": "1.2.3", "0020|000d": "1.2", "0020|0052": "1.2.9"}
        tags |= {"0008|0018": f"1.2.3.{number}", "0020|0013": str(number), "0010|0030": MARK, "0010|1010": MARK}
        tags |= {"0020|0032": f"0\\0\\{number}", "0020|0037": "1\\0\\0\\0\\1\\0"}
        for tag, value in tags.items():
            image.SetMetaData(tag, value)
        writer.SetFileName(str(folder / f"{number}.dcm"))
        writer.Execute(image)


def write_dataset(root):
    """Write a case of each form, then the description."""
    for folder in ("imagesTr", "labelsTr"):
        (root / folder).mkdir(parents=True)
    for number, case in enumerate(CASES):
        image, labels = draw(number)
        forms = {
            "plain": (".nii.gz", packed(nifti(image, with_sform=True))),
            "<img src=x onerror=alert(3)>": (".nrrd", nrrd(image)),
            "esc\x1b[31m": (".mha", mha(image)),
        }
        ending, content = forms.get(case, (".nii", nifti(image, with_sform=False)))
        (root / "imagesTr" / f"{case}_0000{ending}").write_bytes(content)
        (root / "labelsTr" / f"{case}.nii.gz").write_bytes(packed(nifti(labels, with_sform=True)))
    names = {"background": 0} | {name: value for value, name in enumerate(LABELS, start=1)}
    content = {"name": "<b>\x1b[1m=data", "channel_names": {"0": "MRI"}, "labels": names, "licence": MARK}
    (root / "dataset.json").write_text(json.dumps(content))
    write_series(root.parent / "dicom" / "series", draw(9)[0])


def main():
    os.chdir(sys.argv[1])
    write_dataset(Path("data"))
    from autoseg.cli import evaluate, plan, predict, train

    words = [word for setting in SETTINGS for word in ("--set", setting)]
    also = ["--also", "uncertainty", "probabilities", "seg.nrrd", "masks"]
    codes = {
        "plan": plan.main(["data", "-o", "run", "--device", "cpu", "--num-workers", "2", *words]),
        "train": train.main(["run", "--fold", "0", "--device", "cpu"]),
        "predict": predict.main(
            ["-m", "run", "--fold", "0", "-i", "data/imagesTr", "dicom", "-o", "out", "--device", "cpu", *also]
        ),
        "evaluate": evaluate.main(["out", "data/labelsTr", "-o", "out/evaluation.json"]),
    }
    Path("codes.json").write_text(json.dumps(codes))


if __name__ == "__main__":
    main()
