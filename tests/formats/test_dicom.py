"""DICOM files that pydicom itself wrote, shown as pydicom's own windowing says they should be."""

# pyright: reportMissingImports=false
from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from open4ov.errors import UserError
from open4ov.formats import dicom
from open4ov.formats.convert import import_set
from open4ov.images import ImageError
from open4ov.store import ImageStore, read_samples

try:
    import pydicom
except ImportError:
    pydicom = None
needs_pydicom = pytest.mark.skipif(pydicom is None, reason="pydicom is not installed (the extra open4ov[dicom])")


def scan(pixels: np.ndarray, photometric: str = "MONOCHROME2", **tags: Any) -> bytes:
    """A DICOM file of frames [F, H, W], or of one [H, W] or [H, W, 3]."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    colour = pixels.ndim == 3 and pixels.shape[-1] == 3
    frames = pixels if pixels.ndim == 3 and not colour else pixels[None]
    dataset.Rows, dataset.Columns = frames.shape[1:3]
    if len(frames) > 1:
        dataset.NumberOfFrames = len(frames)
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = (3 if colour else 1), photometric
    if colour:
        dataset.PlanarConfiguration = 0
    dataset.BitsAllocated = dataset.BitsStored = pixels.dtype.itemsize * 8
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    dataset.PatientName, dataset.PatientID, dataset.Modality = "Doe^Jane", "MRN-77", "CT"
    for name, value in tags.items():
        setattr(dataset, name, value)
    dataset.PixelData = pixels.tobytes()
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def shown(data: bytes) -> list[np.ndarray]:
    return [np.asarray(frame.image).astype(int) for frame in dicom.frames(data, "scan.dcm", 10**6)]


HOUNSFIELD = np.linspace(-1024, 3000, 48, dtype=np.int16).reshape(6, 8)


@needs_pydicom
@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_slope_window_and_polarity_follow_the_standard(function: str, photometric: str) -> None:
    from pydicom.pixels import apply_modality_lut, apply_voi_lut

    stored = (HOUNSFIELD + 1024).astype(np.uint16)
    tags = {"RescaleSlope": 1, "RescaleIntercept": -1024, "WindowCenter": [40, 600], "WindowWidth": [400, 1600]}
    data = scan(stored, photometric, VOILUTFunction=function, **tags)
    (found,) = shown(data)
    dataset = pydicom.dcmread(io.BytesIO(data))
    oracle = apply_voi_lut(apply_modality_lut(dataset.pixel_array, dataset), dataset)
    low, high = -1024, 65535 - 1024  # what pydicom's window spreads over
    expected = (oracle - low) / (high - low) * 255
    expected = 255 - expected if photometric == "MONOCHROME1" else expected
    assert np.abs(found[..., 0] - expected).max() <= 1
    assert (found[..., 0] == found[..., 2]).all()


@needs_pydicom
def test_a_window_worked_out_by_hand() -> None:
    values = np.array([[-200, -160, 39, 40, 239, 240, 500]], np.int16)
    (found,) = shown(scan(values, WindowCenter=40, WindowWidth=400))
    assert found[0, :, 0].tolist() == [0, 0, 127, 128, 255, 255, 255]  # ((x - 39.5) / 399 + 0.5) * 255


@needs_pydicom
def test_without_a_window_the_range_is_spread_over_all_frames() -> None:
    pixels = np.array([[[0, 100]], [[200, 400]]], np.uint16)
    first, second = shown(scan(pixels))
    assert (first[0, :, 0].tolist(), second[0, :, 0].tolist()) == ([0, 64], [128, 255])
    (flat,) = shown(scan(np.full((2, 2), 9, np.uint16)))
    assert (flat == 0).all()


@needs_pydicom
def test_colour_is_colour() -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (4, 5, 3), dtype=np.uint8)
    (found,) = shown(scan(pixels, "RGB"))
    assert (found == pixels).all()


@needs_pydicom
def test_a_folder_of_scans_names_nobody(tmp_path: Path) -> None:
    source = tmp_path / "scans"
    source.mkdir()
    (source / "cine.dcm").write_bytes(scan(np.arange(48, dtype=np.uint16).reshape(3, 4, 4), BodyPartExamined="HEAD"))
    (source / "cine.json").write_text('{"finding": "none"}')
    (source / "one").write_bytes(scan(HOUNSFIELD, WindowCenter=40, WindowWidth=400, BurnedInAnnotation="YES"))
    (source / "cut.dcm").write_bytes(scan(HOUNSFIELD)[:-20])
    (source / "report.dcm").write_bytes(scan(HOUNSFIELD)[:132] + b"junk")
    done = import_set(source, tmp_path / "in")
    assert (done.format, done.samples, done.refused) == ("folder", 4, 2)
    *cine, one = read_samples(tmp_path / "in" / "samples.parquet")
    assert [sample.extra["fields"]["frame"] for sample in cine] == [0, 1, 2]
    assert [sample.scene for sample in cine] == [{"finding": "none"}] * 3
    about = one.extra["fields"]
    assert (about["Modality"], about["BurnedInAnnotation"]) == ("CT", "YES")
    assert about["window"] == {"centre": 40.0, "width": 400.0, "function": "LINEAR"}
    assert about["patient"] == cine[0].extra["fields"]["patient"]
    assert ImageStore(tmp_path / "in" / "image-store").get(one.images[0]).size == (8, 6)
    for path in (tmp_path / "in").rglob("*"):
        if path.is_file():
            assert b"Doe" not in path.read_bytes()
            assert b"MRN-77" not in path.read_bytes()


@needs_pydicom
def test_what_is_too_much_or_no_image_is_refused() -> None:
    with pytest.raises(ImageError, match=r"scan\.dcm: over-large: 8 x 6 pixels"):
        list(dicom.frames(scan(HOUNSFIELD), "scan.dcm", 40))
    many = scan(HOUNSFIELD, NumberOfFrames=10**6)
    with pytest.raises(ImageError, match="1000000 frames of 8 x 6 pixels are too many"):
        list(dicom.frames(many, "scan.dcm", 10**6))


@pytest.mark.skipif(pydicom is not None, reason="pydicom is installed")
def test_without_pydicom_the_message_says_what_to_install() -> None:
    with pytest.raises(UserError, match=r"pip install 'open4ov\[dicom\]'"):
        list(dicom.frames(b"\0" * 128 + b"DICM", "scan.dcm", 10**6))


def test_tiff_of_sixteen_bits_in_a_folder(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    Image.fromarray(np.array([[0, 257, 4096, 65535]], np.uint16)).save(tmp_path / "src" / "deep.tif")
    import_set(tmp_path / "src", tmp_path / "in")
    (sample,) = read_samples(tmp_path / "in" / "samples.parquet")
    image = ImageStore(tmp_path / "in" / "image-store").get(sample.images[0])
    assert [image.getpixel((x, 0)) for x in range(4)] == [(v, v, v) for v in (0, 1, 16, 255)]
