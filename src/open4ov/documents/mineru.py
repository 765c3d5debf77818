"""MinerU's `content_list.json` read as pages, as if we had read the PDF ourselves.

A flat list in reading order; each entry has a `type`, a `page_idx` from 0, and in newer versions a `bbox` in
thousandths of the page. Pictures lie beside the file (`img_path`). Captions are `image_caption` or, before,
`img_caption`; footnotes likewise. A list without boxes has boxes of no size, and positions decide nothing then.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from open4ov.documents.blocks import Block, DocumentError, Page
from open4ov.documents.captions import caption_label
from open4ov.images import ImageError, open_image
from open4ov.store import ImageStore

SIDE = 1000.0
"""Units of MinerU's boxes across and down a page."""

_MAX_BYTES = 512 * 1024 * 1024
_PICTURES = {"image": "figure", "chart": "figure", "table": "table"}
_MARGINS = {"header", "footer", "page_number", "page_header", "page_footer", "aside_text", "page_footnote", "discarded"}
_TEXTS = {"text", "title", "list", "code", "ref_text", "equation", "interline_equation", "algorithm"}


def is_content_list(path: Path) -> bool:
    """Whether a path names such a file (`..._content_list.json`)."""
    return path.name.endswith("content_list.json")


def read(path: Path, store: ImageStore, max_pixels: int, faults: list[dict[str, str]]) -> Iterator[Page]:
    """The pages in order. Entries that cannot be used are listed in `faults`. Raises DocumentError for no such list."""
    entries = _load(path)
    page: Page | None = None
    for number, found in enumerate(entries):
        where = f"entry {number}"
        entry = cast(dict[str, Any], found) if isinstance(found, dict) else {}
        if not isinstance(entry.get("type"), str):
            faults.append({"where": where, "reason": "is no object with a type"})
            continue
        index = entry.get("page_idx", 0)
        if not isinstance(index, int) or isinstance(index, bool) or index < 0:
            faults.append({"where": where, "reason": f"page_idx {index!r} is no page"})
            continue
        if page is None or page.number != index + 1:
            if page is not None:
                yield page
            page = Page(number=index + 1, width=SIDE, height=SIDE)
        try:
            page.blocks += _blocks(entry, index + 1, path.parent, store, max_pixels)
        except (DocumentError, ImageError) as error:
            faults.append({"where": where, "reason": str(error)})
    if page is not None:
        yield page


def _load(path: Path) -> list[Any]:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise DocumentError(f"is larger than {_MAX_BYTES // 1024**2} MiB; split it")
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DocumentError("no such file") from None
    except (OSError, ValueError, RecursionError) as error:
        raise DocumentError(f"is no JSON that can be read: {' '.join(str(error).split())[:120]}") from None
    if not isinstance(found, list):
        raise DocumentError("is no content list: MinerU's is a list of blocks")
    entries = cast(list[Any], found)
    if entries and all(isinstance(entry, list) for entry in entries):
        raise DocumentError("is MinerU's content_list_v2 (a list for each page); give the content_list.json beside it")
    if not entries:
        raise DocumentError("is empty: no blocks")
    return entries


def _blocks(entry: dict[str, Any], page: int, folder: Path, store: ImageStore, max_pixels: int) -> list[Block]:
    kind = entry["type"]
    box = _box(entry.get("bbox"))
    if kind in _MARGINS:
        return [Block(kind="margin", page=page, box=box, text=_text(entry.get("text")))]
    if kind in _PICTURES:
        caption = _text(_first(entry, f"{kind}_caption", "image_caption", "img_caption"))
        note = _text(_first(entry, f"{kind}_footnote", "image_footnote", "img_footnote"))
        block = Block(kind="figure" if _PICTURES[kind] == "figure" else "table", page=page, box=box)
        block.caption, block.label = caption, caption_label(caption)
        block.text = _text(entry.get("table_body") or entry.get("content")) or note
        block.image = _picture(entry.get("img_path"), folder, store, max_pixels)
        said = [Block(kind="caption", page=page, box=box, text=caption, label=block.label)] if caption else []
        return [block, *said]
    if kind in _TEXTS:
        text = _text(_first(entry, "text", "list_items", "code_body"))
        if not text:
            return []
        level = entry.get("text_level")
        heading = kind == "title" or (kind == "text" and isinstance(level, int) and level > 0)
        return [
            Block(
                kind="heading" if heading else "equation" if "equation" in kind else "text",
                page=page,
                box=box,
                text=text,
            )
        ]
    raise DocumentError(f"its type {kind!r} is not known")


def _first(entry: dict[str, Any], *names: str) -> object:
    """The first of some fields that holds anything."""
    return next((entry[name] for name in names if entry.get(name)), None)


def _text(value: object) -> str:
    if isinstance(value, list):
        return " ".join(str(part).strip() for part in cast(list[object], value) if isinstance(part, str)).strip()
    return value.strip() if isinstance(value, str) else ""


def _box(value: object) -> tuple[float, float, float, float]:
    if isinstance(value, list) and len(cast(list[Any], value)) == 4:
        sides = cast(list[Any], value)
        if all(isinstance(side, int | float) and not isinstance(side, bool) for side in sides):
            return float(sides[0]), float(sides[1]), float(sides[2]), float(sides[3])
    return (0.0, 0.0, 0.0, 0.0)


def _picture(value: object, folder: Path, store: ImageStore, max_pixels: int) -> str:
    """The digest of the picture, which must lie in the list's own folder or below."""
    if not isinstance(value, str) or not value:
        raise DocumentError("its img_path is missing: MinerU left no picture of it")
    place = (folder / value).resolve()
    if not place.is_relative_to(folder.resolve()):
        raise DocumentError(f"its img_path {value!r} leaves the folder of the list and is not followed")
    return store.put(open_image(place, max_pixels=max_pixels))
