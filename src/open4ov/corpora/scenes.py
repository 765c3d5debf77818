"""Pictures of objects: grids of 32-pixel cells, one large object, and objects placed freely.

Scene fields: kind ("grid", "single", "free"), size [width, height] in pixels, background, split and objects. An object
has type ("symbol", "character", "drawing"), name, colour (not for drawings), and row and col counted from 1 (grid), or
x, y (centre, pixels), pixels (em size) and turn (degrees; free and single).
"""

from __future__ import annotations

import random
from operator import itemgetter
from typing import Any

from PIL import Image

from open4ov.corpora import clipart, fonts, icons, palette
from open4ov.corpora.item import Scene

CELL = 32
SHAPES = {(3, 3): 46, (2, 3): 10, (3, 2): 8, (2, 2): 14, (1, 2): 4, (2, 1): 4, (1, 3): 6, (3, 1): 2, (3, 4): 6}
DIGITS = "0123456789"
LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ"


def grid(rng: random.Random, split: str, style: str | None = None, pool: list[str] | None = None) -> Scene:
    """A grid. style: diverse (every cell drawn alone), repeated (one to three kinds, for counting), digits."""
    style = style or rng.choices(("diverse", "repeated", "digits"), (50, 40, 10))[0]
    rows, cols = rng.choices(list(SHAPES), list(SHAPES.values()))[0]
    scene = _scene("grid", cols * CELL, rows * CELL, palette.background(rng), split)
    places = [(row, col) for row in range(1, rows + 1) for col in range(1, cols + 1)]
    colours = palette.on(scene["background"])
    pool = pool or icons.names()
    cells = _repeated(rng, len(places), colours, pool) if style == "repeated" else []
    for index, (row, col) in enumerate(places):
        if style == "repeated":
            cell = cells[index]
        elif style == "digits":
            cell = _character(rng, colours, DIGITS) if rng.random() < 0.75 else None
        else:
            draw = rng.random()
            cell = _symbol(rng, colours, pool) if draw < 0.64 else _character(rng, colours) if draw < 0.92 else None
        if cell:
            scene["objects"].append({**cell, "size": rng.choice(("large", "large", "small")), "row": row, "col": col})
    if not scene["objects"]:
        cell = _character(rng, colours, DIGITS) if style == "digits" else _symbol(rng, colours, pool)
        scene["objects"].append({**cell, "size": "large", "row": 1, "col": 1})
    return scene


def single(rng: random.Random, split: str, drawing: float = 0.35, pool: list[str] | None = None) -> Scene:
    """One object that fills the picture; a drawing in its own colours with the given probability."""
    side = rng.choice((64, 96, 96, 96))
    if rng.random() < drawing:
        scene = _scene("single", side, side, palette.background(rng, 0.0), split)
        pixels = rng.choice(range(side * 3 // 4, side - 3, 4))
        thing: dict[str, Any] = {"type": "drawing", "name": rng.choice(clipart.names()), "pixels": pixels}
        thing["mirrored"] = rng.random() < 0.5
    else:
        scene = _scene("single", side, side, palette.background(rng), split)
        thing = _symbol(rng, palette.on(scene["background"]), pool or icons.names())
        thing |= {
            "pixels": rng.choice(range(side * 3 // 4, side + 1, 4)),
            "turn": rng.choice((0, 0, -6, 6)),
        }
    slack = min(3, max(0, (side - thing["pixels"]) // 2))
    thing |= {"x": side // 2 + rng.randint(-slack, slack), "y": side // 2 + rng.randint(-slack, slack)}
    scene["objects"].append(thing)
    return scene


def free(rng: random.Random, split: str, pool: list[str] | None = None) -> Scene:
    """Two to six objects of several sizes, apart from one another, each near the middle of a 32-pixel cell."""
    columns, rows = rng.choice((3, 3, 4)), 3
    scene = _scene("free", columns * CELL, rows * CELL, palette.background(rng), split)
    colours, pool = palette.on(scene["background"]), pool or icons.names()
    kinds = [_symbol(rng, colours, pool) for _ in range(rng.randint(2, 4))]
    places = [(col, row) for col in range(columns) for row in range(rows)]
    for col, row in rng.sample(places, rng.randint(2, 6)):
        thing = dict(rng.choice(kinds)) if rng.random() < 0.5 else _symbol(rng, colours, pool)
        pixels = rng.choice((24, 26, 28, 30, 32, 34))
        x, y = (CELL * cell + CELL // 2 + rng.randint(-2, 2) for cell in (col, row))
        if all(max(abs(x - o["x"]), abs(y - o["y"])) >= (pixels + o["pixels"]) // 2 for o in scene["objects"]):
            turn = rng.choice((0, 0, 0, -8, 8))
            scene["objects"].append({**thing, "pixels": pixels, "turn": turn, "x": x, "y": y})
    scene["objects"].sort(key=itemgetter("x"))
    return scene


def render(scene: Scene, rng: random.Random) -> Image.Image:
    """The picture, RGB. `rng` moves shades by a few levels and grid objects by at most two pixels."""
    width, height = scene["size"]
    image = Image.new("RGB", (width, height), palette.shade(palette.BACKGROUNDS[scene["background"]], rng, 3))
    for thing in scene["objects"]:
        if thing["type"] == "drawing":
            drawing = clipart.picture(thing["name"], thing["pixels"], thing["mirrored"])
            image.paste(drawing, (thing["x"] - drawing.width // 2, thing["y"] - drawing.height // 2), drawing)
            continue
        colour = palette.shade(palette.COLOURS[thing["colour"]], rng)
        if scene["kind"] == "grid":
            ink = _cell_mask(thing, rng)
            x = (thing["col"] - 1) * CELL + CELL // 2 + rng.randint(-1, 1)
            y = (thing["row"] - 1) * CELL + CELL // 2 + rng.randint(-1, 1)
        else:
            ink, x, y = icons.mask(thing["name"], thing["pixels"]), thing["x"], thing["y"]
            if thing["turn"]:
                ink = ink.rotate(thing["turn"], Image.Resampling.BILINEAR, expand=True)
        image.paste(colour, (x - ink.width // 2, y - ink.height // 2), ink)
    return image


def box(thing: dict[str, Any]) -> tuple[int, int, int, int] | None:
    """Left, top, right and bottom, in pixels, of what an object's picture lies in; None for what is no object of a
    scene."""
    if {"row", "col"} <= thing.keys():
        x, y = (int(thing["col"]) - 1) * CELL, (int(thing["row"]) - 1) * CELL
        return (x, y, x + CELL, y + CELL)
    if {"x", "y", "pixels"} <= thing.keys():
        half = -(-int(thing["pixels"]) * 3 // 4)  # a turned one is wider
        return (thing["x"] - half, thing["y"] - half, thing["x"] + half, thing["y"] + half)
    return None


def _cell_mask(thing: dict[str, Any], rng: random.Random) -> Image.Image:
    large = thing["size"] == "large"
    if thing["type"] == "character":
        return fonts.mask(thing["name"], rng.choice((26, 28) if large else (18, 20)), rng.random() < 0.4)
    return icons.mask(thing["name"], rng.choice((29, 31, 33) if large else (21, 23)))


def _scene(kind: str, width: int, height: int, background: str, split: str) -> Scene:
    return {"kind": kind, "size": [width, height], "background": background, "split": split, "objects": []}


def _symbol(rng: random.Random, colours: list[str], pool: list[str]) -> dict[str, Any]:
    return {"type": "symbol", "name": rng.choice(pool), "colour": rng.choice(colours)}


def _character(rng: random.Random, colours: list[str], among: str = "") -> dict[str, Any]:
    name = rng.choice(among or (DIGITS if rng.random() < 0.65 else LETTERS))
    return {"type": "character", "name": name, "colour": rng.choice(colours)}


def _repeated(rng: random.Random, places: int, colours: list[str], pool: list[str]) -> list[dict[str, Any] | None]:
    """One to three kinds of objects over the places, the rest left empty; the first kind's count is uniform."""
    cells: list[dict[str, Any] | None] = []
    mixed_colours = rng.random() < 0.4
    for kind in range(rng.choice((1, 2, 2, 2, 3))):
        first = _symbol(rng, colours, pool) if rng.random() < 0.85 else _character(rng, colours, DIGITS)
        room = min(9, places - len(cells))
        if room < 1:
            break
        count = rng.randint(1, room) if kind == 0 else rng.randint(1, max(1, min(room, 5)))
        for _ in range(count):
            cells.append({**first, "colour": rng.choice(colours)} if mixed_colours else dict(first))
    cells += [None] * (places - len(cells))
    rng.shuffle(cells)
    return cells
