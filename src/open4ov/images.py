"""Image files as users have them, made into the RGB pixels the models see; or refused with the reason.

Transparent pixels are laid on white. 16-bit grey is scaled (257 levels to one), not clipped. CMYK follows the embedded
colour profile where there is one. The rotation a camera noted in EXIF is carried out.

What a file is, its first bytes say and never its name. Only PNG, JPEG, WebP, TIFF, BMP and GIF reach a decoder, each
its own: Pillow knows some forty formats, and would try them all on strangers' files (EPS by starting Ghostscript).
"""

from __future__ import annotations

import io
import stat
import warnings
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from open4ov.errors import UserError

MAX_PIXELS = 40_000_000
KINDS = {
    b"\x89PNG\r\n\x1a\n": "png",
    b"\xff\xd8\xff": "jpg",
    b"II*\x00": "tif",
    b"MM\x00*": "tif",
    b"BM": "bmp",
    b"GIF8": "gif",
}
"""How files begin, but for WebP and DICOM: `kind_of`."""
_DECODERS = {"png": "PNG", "jpg": "JPEG", "webp": "WEBP", "tif": "TIFF", "bmp": "BMP", "gif": "GIF"}
_HEAD = 132  # bytes by which a file's kind is known
_STILL_SEQUENCES = {"MPO"}  # a camera's JPEG with its previews behind it: frame 0 is the picture

# Our own limit is stricter and is an error; Pillow's warning before it would be a second message for one fault.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


MAX_RATIO = 200  # Qwen's processor takes nothing longer than this


class ImageError(UserError):
    """An image that is refused; the message names it and says why."""


def open_image(source: Path | bytes, *, max_pixels: int = MAX_PIXELS, name: str = "", option: str = "") -> Image.Image:
    """The RGB image in a file or in bytes; `name` stands in messages about bytes. `option`: what the user sets
    `max_pixels` with, where that is possible.

    Raises ImageError when it is missing, empty, in none of the formats above, truncated, zero-sized, animated, over 200
    times longer than wide (or wider than long), of more than `max_pixels` pixels, or of a pixel type without an agreed
    white (32-bit integers beyond 16 bits, floats).
    """
    label = name or (str(source) if isinstance(source, Path) else "the image")
    if isinstance(source, bytes):
        return _decode(io.BytesIO(source), len(source), label, max_pixels, option)
    try:
        if not stat.S_ISREG(source.stat().st_mode) and not source.is_dir():
            raise ImageError(f"{label}: is no regular file")
        with source.open("rb") as file:
            return _decode(file, source.stat().st_size, label, max_pixels, option)
    except FileNotFoundError:
        raise ImageError(f"{label}: no such file") from None
    except IsADirectoryError:
        raise ImageError(f"{label}: is a folder, not an image file") from None
    except OSError as error:
        raise ImageError(f"{label}: cannot be read: {error.strerror or error}") from None


def kind_of(head: bytes) -> str | None:
    """png, jpg, webp, tif, bmp, gif or dicom, by a file's first 132 bytes; None for what is read as none."""
    if head[128:132] == b"DICM":
        return "dicom"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "webp"
    return next((kind for begin, kind in KINDS.items() if head.startswith(begin)), None)


def decoders(head: bytes) -> tuple[str, ...]:
    """Pillow's name for the one format that a file begins like; none for others."""
    name = _DECODERS.get(kind_of(head) or "")
    return (name,) if name else ()


def _decode(file: BinaryIO, size: int, label: str, max_pixels: int, option: str) -> Image.Image:
    limit = f"the limit is {max_pixels} pixels in all{f' ({option})' if option else '; save it smaller'}"
    if size == 0:
        raise ImageError(f"{label}: the file is empty (0 bytes)")
    head = file.read(_HEAD)
    file.seek(0)
    if kind_of(head) == "dicom":
        raise ImageError(f"{label}: is DICOM, which is read in folders of images and by `open4ov data import` only")
    if not (formats := decoders(head)):
        raise ImageError(
            f"{label}: not an image in a known format (PNG, JPEG, WebP, TIFF, BMP, GIF) by its first bytes"
        )
    if 0 in (stated := _stated_size(head)):  # Pillow would only say that it knows no such format
        raise ImageError(f"{label}: zero-sized ({stated[0]} x {stated[1]} pixels)")
    try:
        image = Image.open(file, formats=formats)
        if image.width == 0 or image.height == 0:
            raise ImageError(f"{label}: zero-sized ({image.width} x {image.height} pixels)")
        if max(image.size) > MAX_RATIO * min(image.size):
            raise ImageError(
                f"{label}: {image.width} x {image.height} pixels; one side may be at most {MAX_RATIO} times the other"
            )
        if image.width * image.height > max_pixels:
            found = f"{image.width} x {image.height} pixels"
            raise ImageError(f"{label}: over-large: {found}; {limit}")
        frames = getattr(image, "n_frames", 1)
        if frames > 1 and image.format not in _STILL_SEQUENCES:
            raise ImageError(
                f"{label}: animated or of several pages ({frames} frames); save the frame you want as an image"
            )
        image.load()
        return _to_rgb(ImageOps.exif_transpose(image), label)
    except ImageError:
        raise
    except Image.DecompressionBombError:
        raise ImageError(f"{label}: over-large (a decompression bomb); {limit}") from None
    except UnidentifiedImageError:
        raise ImageError(f"{label}: begins like {formats[0]}, but its header is damaged") from None
    except Exception as error:  # Pillow's decoders raise many kinds (struct.error, SyntaxError, ...) on damaged files
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(f"{label}: damaged or truncated: {reason}") from error


def _stated_size(head: bytes) -> tuple[int, int]:
    """Width and height from the first bytes of a PNG or GIF; (1, 1) for others."""
    if head.startswith(b"\x89PNG") and len(head) >= 24:
        return int.from_bytes(head[16:20]), int.from_bytes(head[20:24])
    if head.startswith(b"GIF8") and len(head) >= 10:
        return int.from_bytes(head[6:8], "little"), int.from_bytes(head[8:10], "little")
    return 1, 1


def _to_rgb(image: Image.Image, label: str) -> Image.Image:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _from_deep_grey(image, label)
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return _plain(Image.alpha_composite(white, rgba).convert("RGB"))
    if image.mode in ("CMYK", "LAB"):
        return _plain(_by_profile(image))
    return _plain(image.convert("RGB"))


def _from_deep_grey(image: Image.Image, label: str) -> Image.Image:
    if image.mode == "F":
        raise ImageError(f"{label}: floating-point pixels have no agreed white; save it with 8 or 16 bits a channel")
    deep = np.asarray(image).astype(np.int64)
    low, high = int(deep.min()), int(deep.max())
    if low < 0 or high > 65535:
        raise ImageError(
            f"{label}: 32-bit pixels (from {low} to {high}) have no agreed white; save it with 8 or 16 bits"
        )
    grey = ((deep + 128) // 257).astype(np.uint8)  # 0 -> 0, 65535 -> 255, rounded between
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey[deep == transparent] = 255
    return Image.fromarray(grey).convert("RGB")


def _by_profile(image: Image.Image) -> Image.Image:
    """CMYK by its embedded profile, or by the plain inks formula where it has none that can be read; LAB by D50."""
    target = cast(Any, ImageCms.createProfile("sRGB"))  # pyright: ignore[reportUnknownMemberType]
    if image.mode == "LAB":
        source = cast(Any, ImageCms.createProfile("LAB"))  # pyright: ignore[reportUnknownMemberType]
        converted = ImageCms.profileToProfile(image, source, target, outputMode="RGB")
        assert converted is not None
        return converted
    profile = image.info.get("icc_profile")
    if profile:
        try:
            converted = ImageCms.profileToProfile(image, io.BytesIO(profile), target, outputMode="RGB")
        except ImageCms.PyCMSError:
            return image.convert("RGB")
        if converted is not None:
            return converted
    return image.convert("RGB")


def _plain(image: Image.Image) -> Image.Image:
    """The same pixels without the file's metadata (profiles, comments, EXIF), which would change the stored bytes."""
    return Image.frombytes("RGB", image.size, image.tobytes())
