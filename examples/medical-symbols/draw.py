"""Draws an annotated folder of medical symbols, as somebody might have one: NAME.png and NAME.json.

    python examples/medical-symbols/draw.py out/medical-symbols [--pictures 16]

Each picture shows one symbol (filled or as an outline) in some colour on some ground, larger or smaller, a little off
the middle and turned a little. Whoever has a folder of their own needs none of this. The same call draws the same.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path
from typing import Any

import yaml
from PIL import Image, ImageFilter

HERE = Path(__file__).parent
SIDE = 96
"""Side of a picture, in pixels"""
SIZES = (66, 88)
"""Smallest and largest side of the symbol in it"""
OFF = 5
"""Most pixels by which a symbol lies off the middle"""
TURN = 7.0
"""Most degrees by which it is turned"""
INKS = ((25, 30, 40), (170, 30, 40), (20, 80, 160), (20, 110, 70), (95, 45, 120))
PAPERS = ((250, 250, 248), (232, 240, 247), (245, 238, 226), (230, 243, 234), (243, 232, 236))


def picture(icon: str, number: int) -> Image.Image:
    """The symbol's picture of that number, RGB [96, 96]; every other one is an outline, every third light on dark."""
    rng = random.Random(f"medical-symbols/{icon}/{number}")
    style = ("filled", "outline")[number % 2]
    with Image.open(HERE / "icons" / style / f"{Path(icon).name}.png") as image:
        shape = image.convert("L")
    size = rng.randint(*SIZES)
    middle = (SIDE - size) // 2
    left, top = (max(0, min(SIDE - size, middle + rng.randint(-OFF, OFF))) for _ in "xy")
    mask = Image.new("L", (SIDE, SIDE), 0)
    mask.paste(shape.resize((size, size), Image.Resampling.LANCZOS), (left, top))
    mask = mask.rotate(rng.uniform(-TURN, TURN), Image.Resampling.BICUBIC)
    ink, paper = rng.choice(INKS), rng.choice(PAPERS)
    if number % 3 == 2:
        ink, paper = paper, ink
    board = Image.new("RGB", (SIDE, SIDE), paper)
    board.paste(ink, (0, 0), mask)
    board = board.filter(ImageFilter.GaussianBlur(rng.uniform(0.0, 0.6)))
    grain = Image.frombytes("L", board.size, rng.randbytes(SIDE * SIDE)).convert("RGB")
    return Image.blend(board, grain, rng.uniform(0.0, 0.05))


def annotation(symbol: dict[str, Any], categories: dict[str, list[str]]) -> dict[str, Any]:
    """What NAME.json tells of a picture of this symbol."""
    (name, meaning), (name_zh, meaning_zh) = symbol["en"], symbol["zh"]
    kind, kind_zh = categories[symbol["category"]]
    return {
        "symbol": Path(symbol["icon"]).name,
        "category": symbol["category"],
        "name": name,
        "also": symbol.get("also", []),
        "kind_of_thing": kind,
        "meaning": meaning,
        "name_zh": name_zh,
        "kind_of_thing_zh": kind_zh,
        "meaning_zh": meaning_zh,
        "licence": "MIT",
        "source": f"healthicons 2.0.0, {symbol['icon']}",
    }


def draw(out: Path, pictures: int) -> int:
    """Writes `pictures` of each symbol to `out`, which must be new or empty, and gives how many there are."""
    if out.exists() and any(out.iterdir()):
        raise SystemExit(f"{out}: is not empty; name a new folder")
    out.mkdir(parents=True, exist_ok=True)
    told = yaml.safe_load((HERE / "symbols.yaml").read_text(encoding="utf-8"))
    for symbol in told["symbols"]:
        text = json.dumps(annotation(symbol, told["categories"]), ensure_ascii=False, indent=1) + "\n"
        for number in range(pictures):
            name = f"{Path(symbol['icon']).name}-{number:02d}"
            picture(symbol["icon"], number).save(out / f"{name}.png")
            (out / f"{name}.json").write_text(text, encoding="utf-8")
    return pictures * len(told["symbols"])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder to write, new or empty")
    parser.add_argument("--pictures", type=int, default=16, help="of each symbol (16)")
    options = parser.parse_args()
    if options.pictures < 1:
        parser.error("--pictures: at least 1")
    print(f"{draw(options.out, options.pictures)} pictures with annotations in {options.out}")
