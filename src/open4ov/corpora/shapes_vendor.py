"""Makes `assets/corpora/mdi/shapes.json`, the icons that the nano tower is pretrained on: `python -m
open4ov.corpora.shapes_vendor`, from the checkout, with fonttools. Results ship; users never need it.

Left out: the icons of the verticals by name (`in_car/excluded.yaml`), variants of those that a vertical uses (their
name with a suffix), whatever looks like one of them, by its outline or by its difference hash, and near copies of
another shape.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from fontTools.ttLib import TTFont  # pyright: ignore[reportMissingTypeStubs]
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from open4ov.corpora import icons, in_car
from open4ov.corpora.in_car.render import glyph, sign

FOLDER = Path(__file__).parents[1] / "assets" / "corpora" / "mdi"
LIKE_A_VERTICAL = 0.87
HASH_RADIUS = 32  # of 512 bits
COPY = 0.97
BY_HAND = {"card"}  # like the trailer, when cropped closer than the hash sees it


def outline(mask: Image.Image) -> NDArray[np.float64]:
    """A mask cropped to its ink, centred in a square and reduced to 24 by 24; mean 0, norm 1. Two shapes are as alike
    as their product."""
    side = max(mask.size)
    square = Image.new("L", (side, side))
    square.paste(mask, ((side - mask.width) // 2, (side - mask.height) // 2))
    flat = np.asarray(square.resize((24, 24), Image.Resampling.BOX), dtype=np.float64).ravel()
    flat -= flat.mean()
    return flat / max(1e-9, float(np.linalg.norm(flat)))


def difference_hash(board: Image.Image) -> NDArray[np.bool_]:
    """512 bits: whether each of 16 x 16 areas is darker than its neighbour to the right, and below."""
    grey = np.asarray(board.convert("L").resize((17, 17), Image.Resampling.BOX), dtype=np.int16)
    return np.concatenate([(grey[:16, 1:] > grey[:16, :16]).ravel(), (grey[1:, :16] > grey[:16, :16]).ravel()])


def _board(symbol: in_car.Symbol) -> Image.Image:
    """A symbol of the in-car vertical by itself: a tell-tale white on black, a sign on grey."""
    if symbol.codepoint is not None:
        return glyph(symbol)
    drawing = sign(symbol)
    board = Image.new("RGB", (128, 128), (128, 128, 128))
    board.paste(drawing.convert("RGB"), ((128 - drawing.width) // 2, (128 - drawing.height) // 2), drawing)
    return board


def main() -> None:
    """Writes shapes.json from the packages named above."""
    file = FOLDER / "materialdesignicons.ttf"
    cmap = TTFont(file).getBestCmap()
    assert cmap is not None
    codes = {name: code for code, name in cmap.items()}
    font = ImageFont.truetype(str(file), 64, layout_engine=ImageFont.Layout.BASIC)

    def drawn(name: str) -> NDArray[np.float64] | None:
        canvas = Image.new("L", (96, 96))
        ImageDraw.Draw(canvas).text((48, 48), chr(codes[name]), font=font, fill=255, anchor="mm")
        box = canvas.getbbox()
        return None if box is None else outline(canvas.crop(box))

    lists = in_car.excluded()
    out = {*lists["automotive"], *lists["medical"]}
    left_out = out | BY_HAND
    used = {symbol.icon for symbol in in_car.load() if symbol.icon} | set(lists["medical"])
    verticals = np.stack([shape for name in sorted(out & set(codes)) if (shape := drawn(name)) is not None])
    hashes = np.stack([difference_hash(_board(symbol)) for symbol in in_car.load()])
    board_font = ImageFont.truetype(str(file), 184, layout_engine=ImageFont.Layout.BASIC)

    def near(name: str) -> bool:
        board = Image.new("L", (192, 192))
        ImageDraw.Draw(board).text((96, 96), chr(codes[name]), font=board_font, fill=255, anchor="mm")
        return bool(((hashes != difference_hash(board)).sum(1) <= HASH_RADIUS).any())

    named = {symbol.mdi for symbol in icons.symbols().values()}
    kept: dict[str, str] = {}
    seen = np.zeros((0, verticals.shape[1]))
    for name in sorted(codes, key=lambda name: (name not in named, name)):
        shape = drawn(name)
        if shape is None or name in left_out or any(name.startswith(f"{other}-") for other in used):
            continue
        if (verticals @ shape).max() >= LIKE_A_VERTICAL or near(name) or (len(seen) and (seen @ shape).max() > COPY):
            continue
        kept[name] = f"{codes[name]:X}"
        seen = np.vstack([seen, shape])
    rows = ",\n".join(f' "{name}": "{code}"' for name, code in sorted(kept.items()))
    (FOLDER / "shapes.json").write_text(f"{{\n{rows}\n}}\n")
    print(f"{len(kept)} of {len(codes)} icons")


if __name__ == "__main__":
    main()
