"""What an image file says beside its pixels: EXIF, XMP, IPTC, comments. None of it enters the image store.

The store holds plain pixels (`images.open_image`, `ImageStore.put`); this says which kinds of personal data were left
behind, so that the report can count them. DICOM headers are looked through in `formats/dicom.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image
from PIL.ExifTags import IFD, Base

from open4ov.data import personal
from open4ov.images import decoders

_NAMES = (Base.Artist, Base.CameraOwnerName, Base.Copyright, Base.XPAuthor, Base.HostComputer)
_SERIALS = (Base.BodySerialNumber, Base.LensSerialNumber, Base.CameraSerialNumber)
_DATES = (Base.DateTime, Base.DateTimeOriginal, Base.DateTimeDigitized)
_MAKER_NOTE = 0x927C  # a maker's own block, which often holds serial numbers
_TEXT_CHUNKS = frozenset({"xmp", "XML:com.adobe.xmp", "photoshop", "comment", "icc_profile", "exif", "xmp_ids"})
_OF_THE_FORMAT = frozenset({"Software"})


def kinds(path: Path) -> list[str]:
    """The kinds of metadata in a file that may be personal: gps, name, serial_number, date, xmp, iptc, text. Sorted.

    Nothing for a file that cannot be opened: `open_image` says what is wrong with it.
    """
    try:
        with path.open("rb") as file:
            formats = decoders(file.read(132))
        if not formats:
            return []
        with Image.open(path, formats=formats) as image:
            return sorted(_of(image))
    except Exception:  # damaged metadata raises many kinds of errors; the pixels may be sound
        return []


def _of(image: Image.Image) -> set[str]:
    exif = image.getexif()
    detail: dict[int, Any] = {**dict(exif), **dict(exif.get_ifd(IFD.Exif))}
    found: set[str] = set()
    if exif.get_ifd(IFD.GPSInfo):
        found.add("gps")
    for kind, tags in (("name", _NAMES), ("serial_number", (*_SERIALS, _MAKER_NOTE)), ("date", _DATES)):
        if any(detail.get(tag) for tag in tags):
            found.add(kind)
    info: dict[Any, Any] = image.info
    if info.get("xmp") or info.get("XML:com.adobe.xmp"):
        found.add("xmp")
    if info.get("photoshop") or 33723 in exif:
        found.add("iptc")
    if info.get("comment"):
        found.add("text")
    texts: dict[str, Any] = getattr(image, "text", {})
    if any(key not in _TEXT_CHUNKS | _OF_THE_FORMAT for key in texts):
        found.add("text")
    if any(personal.identity_tag(str(key)) for key in info):
        found.add("name")
    return found
