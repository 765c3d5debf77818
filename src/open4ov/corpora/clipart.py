"""Everyday objects in colour: drawings from Open Clip Art (public domain), with English and Chinese names."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache

import yaml
from PIL import Image

from open4ov.corpora.icons import ASSETS


@dataclass(frozen=True)
class Drawing:
    """One drawing: names in both languages, its file here, and its path in Debian's openclipart-svg."""

    name: str
    zh: str
    file: str
    source: str


@cache
def drawings() -> dict[str, Drawing]:
    """All drawings by English name, in name order."""
    rows = yaml.safe_load((ASSETS / "openclipart" / "index.yaml").read_text("utf-8"))["objects"]
    return {row["name"]: Drawing(row["name"], row["zh"], row["file"], row["source"]) for row in rows}


@cache
def names() -> list[str]:
    """The names of all drawings."""
    return list(drawings())


@lru_cache(maxsize=8192)
def picture(name: str, pixels: int, mirrored: bool) -> Image.Image:
    """The drawing as RGBA, its longer side `pixels` pixels."""
    with (ASSETS / "openclipart" / drawings()[name].file).open("rb") as file:
        image = Image.open(file).convert("RGBA")
    scale = pixels / max(image.size)
    image = image.resize(
        (max(1, round(image.width * scale)), max(1, round(image.height * scale))), Image.Resampling.BOX
    )
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else image
