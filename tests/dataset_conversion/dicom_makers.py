"""Small DICOM files for the tests: slices by pydicom, contours by hand, segmentations by highdicom."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage, RTStructureSetStorage

SPACING_XYZ_MM = (2.0, 1.0, 4.0)  # between columns, rows and slices
ORIGIN_LPS_MM = (-10.0, -20.0, 30.0)


def write_file(path: Path, *, sop_class: str, uid: str, content: Mapping[str, object]) -> Path:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = sop_class, uid
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset(path, {}, file_meta=meta, preamble=bytes(128))
    dataset.SOPClassUID, dataset.SOPInstanceUID = sop_class, uid
    dataset.PatientName, dataset.PatientID, dataset.StudyInstanceUID = "DOE^JANE", "secret", "1.2"
    dataset.PatientBirthDate = dataset.PatientSex = dataset.AccessionNumber = dataset.StudyID = ""
    dataset.StudyDate = dataset.StudyTime = dataset.ReferringPhysicianName = ""
    for keyword, value in content.items():
        setattr(dataset, keyword, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path


def save_slices(
    folder: Path,
    array_zyx: np.ndarray,
    *,
    series: str = "1.2.3",
    frame: str = "1.2.9",
    modality: str = "CT",
    names: Sequence[str] | None = None,
    numbers: Sequence[int] | None = None,
    own_series: bool = False,
    spacing_xyz_mm: Sequence[float] = SPACING_XYZ_MM,
    direction: Sequence[float] = (1, 0, 0, 0, 1, 0),
) -> list[Path]:
    """Write a file a slice, from the lowest place on; `own_series` gives each another series, as CHAOS does."""
    normal = np.cross(direction[:3], direction[3:])
    paths = []
    for index, plane in enumerate(array_zyx):
        place = np.array(ORIGIN_LPS_MM) + index * spacing_xyz_mm[2] * normal
        content = {
            "Modality": modality,
            "SeriesInstanceUID": f"{series}.{index}" if own_series else series,
            "SeriesNumber": 1,
            "FrameOfReferenceUID": frame,
            "InstanceNumber": numbers[index] if numbers else index + 1,
            "ImagePositionPatient": [float(value) for value in place],
            "ImageOrientationPatient": [float(value) for value in direction],
            "PixelSpacing": [spacing_xyz_mm[1], spacing_xyz_mm[0]],
            "SliceThickness": spacing_xyz_mm[2],
            "Rows": plane.shape[0],
            "Columns": plane.shape[1],
            "BitsAllocated": 16,
            "BitsStored": 16,
            "HighBit": 15,
            "PixelRepresentation": 1,
            "SamplesPerPixel": 1,
            "PhotometricInterpretation": "MONOCHROME2",
            "RescaleIntercept": 0,
            "RescaleSlope": 1,
            "PositionReferenceIndicator": "",
            "Laterality": "",
            "PixelData": plane.astype("<i2").tobytes(),
        }
        path = folder / (names[index] if names else f"{series}_{index:03d}.dcm")
        sop_class = CTImageStorage if modality == "CT" else MRImageStorage
        paths.append(write_file(path, sop_class=sop_class, uid=f"{series}.9{index}", content=content))
    return paths


def rectangle(x_mm: Sequence[float], y_mm: Sequence[float], z_mm: float) -> list[float]:
    """Give the corners of a rectangle in LPS, as ContourData has them."""
    (x0, x1), (y0, y1) = x_mm, y_mm
    return [x0, y0, z_mm, x1, y0, z_mm, x1, y1, z_mm, x0, y1, z_mm]


def save_rtstruct(
    path: Path,
    structures: Mapping[str, Sequence[Sequence[float]]],
    *,
    series: str = "1.2.3",
    frame: str = "1.2.9",
    kind: str = "CLOSED_PLANAR",
) -> Path:
    """Write structures: name to contours, each a flat list of coordinates."""
    named, drawn = [], []
    for number, (name, contours) in enumerate(structures.items(), start=1):
        one = Dataset()
        one.ROINumber, one.ROIName, one.ReferencedFrameOfReferenceUID = number, name, frame
        one.ROIGenerationAlgorithm = "MANUAL"
        named.append(one)
        items = []
        for data in contours:
            contour = Dataset()
            contour.ContourGeometricType, contour.NumberOfContourPoints = kind, len(data) // 3
            contour.ContourData = [float(value) for value in data]
            items.append(contour)
        two = Dataset()
        two.ReferencedROINumber, two.ContourSequence = number, Items(items)
        drawn.append(two)
    referenced, study, own_frame = Dataset(), Dataset(), Dataset()
    referenced.SeriesInstanceUID = series
    study.RTReferencedSeriesSequence = Items([referenced] if series else [])
    own_frame.FrameOfReferenceUID, own_frame.RTReferencedStudySequence = frame, Items([study])
    content = {
        "Modality": "RTSTRUCT",
        "SeriesInstanceUID": f"{series or '1.2.3'}.777",
        "StructureSetROISequence": Items(named),
        "ROIContourSequence": Items(drawn),
        "ReferencedFrameOfReferenceSequence": Items([own_frame]),
    }
    return write_file(path, sop_class=RTStructureSetStorage, uid="1.2.3.778", content=content)


def save_seg(
    path: Path,
    masks: Mapping[str, np.ndarray],
    *,
    slices: Sequence[Path],
    fractional: bool = False,
    shuffle: bool = False,
) -> Path:
    """Write a segmentation with highdicom: name to mask (z, y, x) on the slices; of 0 to 1 where fractional."""
    import highdicom
    from pydicom.sr.codedict import codes

    kind = highdicom.seg.SegmentationTypeValues
    described = [
        highdicom.seg.SegmentDescription(
            segment_number=number,
            segment_label=name,
            segmented_property_category=codes.SCT.AnatomicalStructure,
            segmented_property_type=codes.SCT.Liver,
            algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.MANUAL,
        )
        for number, name in enumerate(masks, start=1)
    ]
    segmentation = highdicom.seg.Segmentation(
        source_images=[pydicom.dcmread(one) for one in slices],
        pixel_array=np.stack(list(masks.values()), axis=-1),
        segmentation_type=kind.FRACTIONAL if fractional else kind.BINARY,
        segment_descriptions=described,
        series_instance_uid="1.2.3.888",
        series_number=9,
        sop_instance_uid="1.2.3.889",
        instance_number=1,
        manufacturer="none",
        manufacturer_model_name="none",
        software_versions="0",
        device_serial_number="none",
        omit_empty_frames=True,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    segmentation.save_as(path)
    if shuffle:
        _reverse_frames(path)
    return path


def _reverse_frames(path: Path) -> None:
    """Put the frames of a binary segmentation into the opposite order."""
    dataset = pydicom.dcmread(path)
    size = dataset.Rows * dataset.Columns
    count = int(dataset.NumberOfFrames)
    bits = np.unpackbits(np.frombuffer(dataset.PixelData, np.uint8), bitorder="little")[: count * size]
    packed = np.packbits(bits.reshape(count, size)[::-1].ravel(), bitorder="little").tobytes()
    dataset.PixelData = packed + bytes(len(packed) % 2)
    dataset.PerFrameFunctionalGroupsSequence = Items(list(dataset.PerFrameFunctionalGroupsSequence)[::-1])
    dataset.save_as(path)
