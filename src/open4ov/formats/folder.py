"""A folder of image files, each with an optional NAME.json beside it: the image's annotation, kept as `Sample.scene`.

PNG, JPEG, WebP, TIFF, BMP, GIF and DICOM; a DICOM file gives an image for each of its frames. 16-bit grey is divided
by 257 (0 is black, 65535 white), which leaves 12-bit values dark: save those with their full range, or as DICOM.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

from pydantic_core import from_json

from open4ov.errors import UserError
from open4ov.formats.reading import Reading, split_of
from open4ov.images import ImageError
from open4ov.sample import Sample, Step, content_id

Refuse = Callable[[str, str], None]
_ROOM = 10
"""How much deeper than in its own file an annotation may lie in what is made of it"""


class AnnotationError(UserError):
    """A NAME.json that is no annotation."""


def read(source: Path, reading: Reading) -> Iterator[Sample]:
    """A sample without messages for each image, in the order of the names."""
    found = listed(source, lambda name, reason: reading.refuse(name, "", reason))
    stems = {file.with_suffix("") for file in found if file.suffix.lower() != ".json"}
    for file in found:
        name = file.relative_to(source).as_posix()
        if file.suffix.lower() == ".json":
            if file.with_suffix("") not in stems:
                reading.refuse(file, "", "an annotation without an image of its name")
            continue
        try:
            scene = annotation(file.with_suffix(".json"), source)
            for sha, about in reading.pictures.frames(file):
                yield _sample(reading, name, sha, about, scene)
        except (ImageError, AnnotationError) as error:
            reading.refuse(file, "", str(error))


def _sample(reading: Reading, name: str, sha: str, about: dict[str, Any], scene: dict[str, Any] | None) -> Sample:
    place = f"frame {about['frame']}" if "frame" in about else None
    extra: dict[str, Any] = {"file": name, "image_files": [name]}
    if about:
        extra["fields"] = about
    if reading.licence is not None:
        extra["licence"] = reading.licence
    return Sample(
        id=content_id("import", reading.name, name, sha, place),
        source=reading.name,
        split=cast(Any, reading.split or split_of(name.split("/")[0] if "/" in name else "")),
        task="image",
        images=[sha],
        scene=scene,
        steps=[Step(stage="import", by="folder", file=name, place=place)],
        extra=extra,
    )


def listed(path: Path, refuse: Refuse) -> list[Path]:
    """The files below a folder in order; what is no file, lies elsewhere, or has a name that cannot be written down, is
    refused."""
    files: list[Path] = []
    root = path.resolve()
    for entry in sorted(path.rglob("*")):
        reason = None
        if any(part.startswith(".") for part in entry.relative_to(path).parts):
            continue  # hidden, or in a hidden folder: a killed export leaves one
        if entry.is_dir():
            if entry.is_symlink():
                reason = "a link to a folder, which is not followed; put the folder itself here"
            elif not os.access(entry, os.R_OK | os.X_OK):
                reason = "a folder that cannot be entered"
        elif not entry.is_file():
            reason = "a link that leads nowhere" if entry.is_symlink() else "no regular file"
        elif _leads_out(entry, root):
            reason = "a link that leads out of the folder; put the file itself here"
        else:
            try:
                str(entry).encode()
                files.append(entry)
            except UnicodeEncodeError:
                reason = "its name is not UTF-8; rename it"
        if reason is not None:
            refuse(str(entry.relative_to(path)).encode(errors="backslashreplace").decode(), reason)
    return files


def _leads_out(entry: Path, root: Path) -> bool:
    """Whether a file is a link out of the resolved folder `root`. Folders that are links are not walked."""
    return entry.is_symlink() and not entry.resolve().is_relative_to(root)


def annotation(path: Path, root: Path) -> dict[str, Any] | None:
    """The JSON object in a file below the folder `root`; None without one. Raises AnnotationError, also for what could
    not be stored with a sample and read again."""
    if _leads_out(path, root.resolve()):
        raise AnnotationError(f"its annotation {path.name} is a link that leads out of the folder")
    try:
        found = json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_number)
        text = json.dumps(found, ensure_ascii=False, allow_nan=False).encode()
        from_json(b"[" * _ROOM + text + b"]" * _ROOM)  # has a limit of its own
    except FileNotFoundError:
        return None
    except UnicodeEncodeError:
        raise AnnotationError(f"its annotation {path.name} holds half of a character (a lone surrogate)") from None
    except RecursionError:
        raise AnnotationError(f"its annotation {path.name} is nested too deeply") from None
    except (OSError, ValueError) as error:
        reason = "it is nested too deeply" if "recursion limit" in str(error) else error
        raise AnnotationError(f"its annotation {path.name} cannot be read: {reason}") from None
    if not isinstance(found, dict):
        raise AnnotationError(f"its annotation {path.name} is not a JSON object")
    return cast(dict[str, Any], found)


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no JSON number")
