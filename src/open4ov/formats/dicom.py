"""DICOM -> RGB pixels as a viewer shows them at first, through pydicom (the extra `open4ov[dicom]`).

Grey: the stored values are rescaled (slope and intercept, or the modality table), laid through the file's first window
(linear, linear exact or sigmoid, PS3.3 C.11.2) or its VOI table, and MONOCHROME1 is turned so that large is white. A
file without either is spread from its smallest to its largest value (all frames of a file alike). Colour: palette and
YBR become RGB. Each frame of a file is an image.

Nothing that names a person is kept: of the header only modality, body part, laterality, view, the window used, whether
text is burned in, and a digest of the patient's id by which a patient's images can be held on one side of a split. The
digest hides a number from readers; it does not from who can try all numbers.
"""

# pydicom's datasets answer to tag names that no type checker knows:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingImports=false, reportMissingTypeStubs=false, reportMissingModuleSource=false
# pydicom documents its names where it does not list them.
# pyright: reportPrivateImportUsage=false
from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from open4ov.errors import UserError
from open4ov.images import ImageError
from open4ov.sample import content_id

MAX_FRAMES = 4096
KEPT = ("Modality", "BodyPartExamined", "Laterality", "ViewPosition", "PhotometricInterpretation", "BurnedInAnnotation")
Grey = NDArray[np.float64]


@dataclass(frozen=True)
class Frame:
    """One frame, and what the file says of it that names nobody."""

    image: Image.Image
    about: dict[str, Any]
    removed: tuple[str, ...] = ()
    """the kinds of personal data in the header, which stay behind: identifier, name, date, place, ..."""


def frames(data: bytes, name: str, max_pixels: int) -> Iterator[Frame]:
    """The frames of a DICOM file. Raises ImageError for one that cannot be shown, UserError without pydicom."""
    try:
        import pydicom
    except ImportError:
        raise UserError(
            f"{name}: DICOM is read through pydicom, which is not installed: pip install 'open4ov[dicom]'"
        ) from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield from _frames(pydicom.dcmread(io.BytesIO(data)), name, max_pixels)
    except (ImageError, GeneratorExit):
        raise
    except Exception as error:  # damaged files and missing decoders raise many kinds
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise ImageError(f"{name}: DICOM that cannot be shown: {reason}") from error


def _frames(dataset: Any, name: str, max_pixels: int) -> Iterator[Frame]:
    if "PixelData" not in dataset:
        raise ImageError(f"{name}: DICOM without an image")
    rows, columns, count = int(dataset.Rows), int(dataset.Columns), int(dataset.get("NumberOfFrames") or 1)
    if rows * columns > max_pixels:
        raise ImageError(f"{name}: over-large: {columns} x {rows} pixels; the limit is {max_pixels} pixels")
    if not 1 <= count <= MAX_FRAMES or rows * columns * count > 16 * max_pixels:
        raise ImageError(f"{name}: {count} frames of {columns} x {rows} pixels are too many")
    pixels = _pixels(dataset)
    if count == 1:
        pixels = pixels[None]
    about, removed = _about(dataset), tuple(sorted(_personal(dataset)))
    colour = pixels.ndim == 4
    shown: Iterator[NDArray[np.uint8]]
    if colour:
        shown = (_eight_bits(frame, int(dataset.BitsStored)) for frame in pixels)
    else:
        shown = _grey(dataset, pixels, about)
    for number, frame in enumerate(shown):
        place = {"frame": number, "frames": count} if count > 1 else {}
        yield Frame(Image.fromarray(np.ascontiguousarray(frame)).convert("RGB"), {**about, **place}, removed)


def _pixels(dataset: Any) -> NDArray[Any]:
    from pydicom.pixels import apply_color_lut, pixel_array

    photometric = str(dataset.PhotometricInterpretation)
    if photometric == "PALETTE COLOR":
        coloured = apply_color_lut(pixel_array(dataset), dataset)
        return (coloured >> 8).astype(np.uint8) if coloured.dtype == np.uint16 else coloured
    return pixel_array(dataset)  # YBR becomes RGB in it


def _eight_bits(frame: NDArray[Any], bits: int) -> NDArray[np.uint8]:
    if frame.dtype == np.uint8:
        return frame
    return (frame.astype(np.float64) * 255 / (2**bits - 1) + 0.5).astype(np.uint8)


def _grey(dataset: Any, pixels: NDArray[Any], about: dict[str, Any]) -> Iterator[NDArray[np.uint8]]:
    from pydicom.pixels import apply_modality_lut, apply_voi

    low, high = _least_and_most(dataset, pixels)
    table = bool(dataset.get("VOILUTSequence"))
    window = _window(dataset)
    for frame in pixels:
        values = np.asarray(apply_modality_lut(frame, dataset), np.float64)
        if table:
            looked_up = np.asarray(apply_voi(values.astype(np.int64), dataset), np.float64)
            bits = int(dataset.VOILUTSequence[0].LUTDescriptor[2])
            shown = looked_up / (2**bits - 1)
            about["window"] = "table"
        elif window is not None:
            shown = through_window(values, *window)
            about["window"] = {"centre": window[0], "width": window[1], "function": window[2]}
        else:
            shown = (values - low) / (high - low) if high > low else np.zeros_like(values)
            about["window"] = {"low": low, "high": high}
        if dataset.PhotometricInterpretation == "MONOCHROME1":
            shown = 1 - shown
        yield (np.clip(shown, 0, 1) * 255 + 0.5).astype(np.uint8)


def _least_and_most(dataset: Any, pixels: NDArray[Any]) -> tuple[float, float]:
    from pydicom.pixels import apply_modality_lut

    ends = np.asarray(apply_modality_lut(np.array([pixels.min(), pixels.max()], pixels.dtype), dataset), np.float64)
    return float(ends.min()), float(ends.max())


def _window(dataset: Any) -> tuple[float, float, str] | None:
    centre, width = dataset.get("WindowCenter"), dataset.get("WindowWidth")
    if centre is None or width is None or centre == "" or width == "":
        return None
    first = [float(value[0] if hasattr(value, "__len__") else value) for value in (centre, width)]
    function = str(dataset.get("VOILUTFunction") or "LINEAR").upper()
    if first[1] <= 0 or (function == "LINEAR" and first[1] < 1):
        return None
    return first[0], first[1], function


def through_window(values: Grey, centre: float, width: float, function: str) -> Grey:
    """Rescaled values -> 0 (black) to 1 (white), by PS3.3 C.11.2.1.2 and C.11.2.1.3."""
    if function == "SIGMOID":
        return 1 / (1 + np.exp(np.clip(-4 * (values - centre) / width, -700, 700)))
    if function == "LINEAR_EXACT":
        return np.clip((values - centre) / width + 0.5, 0, 1)
    if width == 1:
        return (values > centre - 0.5).astype(np.float64)
    return np.clip((values - (centre - 0.5)) / (width - 1) + 0.5, 0, 1)


def _about(dataset: Any) -> dict[str, Any]:
    about: dict[str, Any] = {key: str(dataset.get(key)) for key in KEPT if dataset.get(key)}
    if patient := str(dataset.get("PatientID") or ""):
        about["patient"] = content_id("patient", patient)
    return about


_IDENTIFIERS = ("PatientID", "OtherPatientIDs", "AccessionNumber", "StudyID", "InstanceUID", "FrameOfReferenceUID")
_PLACES = ("Institution", "Address", "StationName", "TelephoneNumbers", "CountryOfResidence", "RegionOfResidence")


def _personal(dataset: Any) -> set[str]:
    """The kinds of elements that may name a person, a place, a time or a device, below sequences too."""
    found: set[str] = set()
    try:
        for element in dataset.iterall():
            name, kind = str(element.keyword), str(element.VR)
            if element.tag.is_private:
                found.add("private")
            elif element.VR == "SQ" or element.is_empty:
                continue
            elif kind == "PN":
                found.add("name")
            elif name.endswith(_IDENTIFIERS):
                found.add("identifier")
            elif any(place in name for place in _PLACES):
                found.add("place")
            elif name.endswith("SerialNumber"):
                found.add("serial_number")
            elif kind in ("DA", "DT"):
                found.add("date")
            elif kind in ("LT", "ST", "UT"):
                found.add("text")
    except Exception:  # a damaged element does not keep the pixels from being shown
        found.add("unreadable")
    return found
