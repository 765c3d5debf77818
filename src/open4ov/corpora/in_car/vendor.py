"""Makes this vertical's assets from their upstream packages: the tell-tales' font subset and the road signs' PNGs.

    python -m open4ov.corpora.in_car.vendor --font materialdesignicons-webfont.ttf --clipart /usr/share/openclipart/svg

Needs `rsvg-convert` (Debian librsvg2-bin) and fonttools. A maintainer runs it after editing knowledge.yaml; users
never need it, since the results ship in the package.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import re
import subprocess
import tempfile
from pathlib import Path

from PIL import Image, ImageChops, ImageDraw

from open4ov.corpora.in_car.knowledge import Symbol, load
from open4ov.corpora.in_car.render import ASSETS, FONT, SIGNS

SIDE = 128
"""Longest side of a stored sign, in pixels."""
SQUARE_TOP = frozenset({"trams_only", "buses_and_cycles"})
"""Drawings whose lower plate is cut off by the page: only the round sign on top is kept."""


def sign(svg: Path, square_top: bool) -> Image.Image:
    """The drawing as a palette PNG image with transparency: cropped to its content, longest side `SIDE`."""
    done = subprocess.run(["rsvg-convert", "-w", "1024", "-h", "1024", "-a", str(svg)], capture_output=True, check=True)
    image = Image.open(io.BytesIO(done.stdout)).convert("RGBA")
    box = image.getchannel("A").point([0] * 8 + [255] * 248).getbbox()
    if box is None:
        raise SystemExit(f"{svg} renders blank")
    image = image.crop(box)
    if square_top:
        image = image.crop((0, 0, image.width, image.width))
        disc = Image.new("L", image.size, 0)
        ImageDraw.Draw(disc).ellipse((0, 0, image.width - 1, image.height - 1), fill=255)
        image.putalpha(ImageChops.darker(image.getchannel("A"), disc))
    image = _whole(image)
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    return image.quantize(64, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)


def _whole(image: Image.Image) -> Image.Image:
    """Closed transparent areas inside a drawing are its white paint: fill them; what reaches the edge stays clear."""
    room = Image.new("L", (image.width + 2, image.height + 2), 0)
    room.paste(image.getchannel("A").point([0] * 128 + [255] * 128), (1, 1))
    ImageDraw.floodfill(room, (0, 0), 128)
    inside = room.crop((1, 1, image.width + 1, image.height + 1)).point([255] + [0] * 127 + [0] + [0] * 127)
    paper = Image.new("RGBA", image.size, (255, 255, 255, 0))
    paper.putalpha(inside)
    return Image.alpha_composite(paper, image)


def _element(text: str, tag: str) -> str:
    match = re.search(rf"<dc:{tag}[^>]*>(.*?)</dc:{tag}>", text, re.S)
    return " ".join(re.sub(r"<[^>]+>", " ", match.group(1)).split()) if match else ""


def _signs(clipart: Path, symbols: list[Symbol]) -> list[dict[str, str]]:
    index: list[dict[str, str]] = []
    SIGNS.mkdir(parents=True, exist_ok=True)
    for old in SIGNS.glob("*.png"):
        old.unlink()
    for symbol in symbols:
        if symbol.file is None:
            continue
        svg = clipart / symbol.file
        text = svg.read_text(encoding="utf-8", errors="replace")
        if "publicdomain" not in text.lower():
            raise SystemExit(f"{svg} does not say that it is in the public domain: choose another drawing")
        target = SIGNS / f"{symbol.id}.png"
        sign(svg, symbol.id in SQUARE_TOP).save(target, optimize=True)
        index.append(
            {
                "id": symbol.id,
                "png": f"signs/{target.name}",
                "source": symbol.file,
                "title": _element(text, "title"),
                "author": _element(text, "creator"),
                "licence": "public domain",
                "sha256": hashlib.sha256(target.read_bytes()).hexdigest(),
            }
        )
    return index


def _font(source: Path, symbols: list[Symbol]) -> None:
    wanted = sorted({symbol.codepoint for symbol in symbols if symbol.codepoint is not None})
    with tempfile.TemporaryDirectory() as folder:
        subset = Path(folder) / FONT.name
        unicodes = ",".join(wanted)
        command = ["pyftsubset", str(source), f"--unicodes={unicodes}", f"--output-file={subset}", "--no-hinting"]
        subprocess.run([*command, "--no-layout-closure", "--name-IDs=*", "--glyph-names"], check=True)
        FONT.write_bytes(subset.read_bytes())


def main() -> None:
    """Writes the vendored files from the packages named above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--font", type=Path, required=True, help="materialdesignicons-webfont.ttf of @mdi/font 7.4.47")
    parser.add_argument("--clipart", type=Path, required=True, help="the svg folder of Debian openclipart-svg")
    options = parser.parse_args()
    ASSETS.mkdir(parents=True, exist_ok=True)
    symbols = load()
    _font(options.font, symbols)
    index = _signs(options.clipart, symbols)
    (ASSETS / "index.json").write_text(json.dumps(index, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{FONT.name}: {FONT.stat().st_size} bytes; {len(index)} signs")


if __name__ == "__main__":
    main()
