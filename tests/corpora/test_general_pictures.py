"""The pictures show what their annotation says: colours, cells, bars and text, measured from the pixels."""

from __future__ import annotations

import random

import numpy as np
import pytest

from open4ov.corpora import charts as charts_module
from open4ov.corpora import dense, fonts, generate, palette, scenes, text


def nearest_colour(pixels: np.ndarray) -> str:
    """The palette's name for the median of [N, 3] pixels."""
    middle = np.median(pixels, axis=0)
    return min(palette.COLOURS, key=lambda name: float(np.abs(middle - palette.COLOURS[name]).sum()))


def inked(area: np.ndarray, ground: np.ndarray) -> np.ndarray:
    """The pixels of [H, W, 3] that are far from the background and not its antialiasing."""
    distance = np.abs(area.astype(int) - ground).sum(-1)
    return area[distance > max(60, 0.7 * distance.max())]


@pytest.mark.parametrize("style", ["diverse", "repeated", "digits"])
def test_every_cell_holds_its_colour_and_empty_cells_hold_nothing(style: str) -> None:
    for index in range(60):
        rng = random.Random(f"cells/{style}/{index}")
        scene = scenes.grid(rng, "train", style)
        picture = np.asarray(scenes.render(scene, rng))
        ground = np.array(palette.BACKGROUNDS[scene["background"]])
        held = {(t["row"], t["col"]): t for t in scene["objects"]}
        for row in range(1, scene["size"][1] // 32 + 1):
            for col in range(1, scene["size"][0] // 32 + 1):
                cell = picture[(row - 1) * 32 + 3 : row * 32 - 3, (col - 1) * 32 + 3 : col * 32 - 3]
                ink = inked(cell, ground)
                if (row, col) in held:
                    assert nearest_colour(ink) == held[row, col]["colour"], (index, row, col)
                else:
                    assert len(ink) == 0, (index, row, col)


def test_free_objects_lie_where_they_are_said_to() -> None:
    for index in range(40):
        rng = random.Random(f"free/{index}")
        scene = scenes.free(rng, "train")
        picture = np.asarray(scenes.render(scene, rng))
        ground = np.array(palette.BACKGROUNDS[scene["background"]])
        for thing in scene["objects"]:
            half, x, y = thing["pixels"] // 2, thing["x"], thing["y"]
            area = picture[max(0, y - half) : y + half, max(0, x - half) : x + half]
            assert nearest_colour(inked(area, ground)) == thing["colour"], index


@pytest.mark.parametrize("kind", ["grid", "free", "single"])
def test_nothing_is_drawn_beside_the_boxes_of_objects(kind: str) -> None:
    beside = 0
    for seed in range(40):
        rng = random.Random(seed)
        scene = getattr(scenes, kind)(rng, "train")
        picture = np.asarray(scenes.render(scene, rng))
        free = np.ones(picture.shape[:2], dtype=bool)
        for thing in scene["objects"]:
            box = scenes.box(thing)
            assert box is not None
            left, top, right, bottom = (max(side, 0) for side in box)
            free[top:bottom, left:right] = False
        beside += int(free.sum())
        assert len(np.unique(picture[free], axis=0)) <= 1
    assert beside or kind == "single"
    assert scenes.box({"name": "cat"}) is None


def test_bars_are_as_high_as_their_values() -> None:
    checked = 0
    for index in range(80):
        rng = random.Random(f"bars/{index}")
        scene = charts_module.chart(rng, "train")
        picture = np.asarray(charts_module.render(scene, rng)).astype(int)
        if scene["of"] != "bar":
            continue
        step = (scene["size"][0] - 14) / len(scene["values"])
        for place, value in enumerate(scene["values"]):
            x = round(12 + step * (place + 0.5)) - int(step * 0.34) // 2
            colour = palette.COLOURS[scene["colours"][place]]
            column = np.abs(picture[12:83, x] - colour).max(-1) <= 12
            assert round(column.sum() / (70 / 9)) == value, (index, place)
            checked += 1
    assert checked > 100


def test_text_lies_whole_inside_its_picture() -> None:
    for language in ("en", "zh"):
        for item in generate("reading", "train", 150, language=language):
            scene = item.sample.scene
            assert scene is not None
            if scene["kind"] != "text":
                continue
            for line, top in zip(scene["lines"], text.tops(scene), strict=True):
                ink = fonts.mask(line, scene["pixels"], scene["bold"])
                assert scene["x"] + ink.width <= scene["size"][0]
                assert top >= 0
                assert top + ink.height <= scene["size"][1] + scene["bold"]  # the outermost row of a bold stroke


def test_sizes_are_multiples_of_32_and_match_the_annotation() -> None:
    for index in range(300):
        item = dense("train", index, seed=2)
        scene = item.sample.scene
        assert scene is not None
        parts = scene["scenes"] if scene["kind"] == "pair" else [scene]
        for image, part in zip(item.images, parts, strict=bool(item.images)):
            assert image.mode == "RGB"
            assert list(image.size) == part["size"]
            assert image.width % 32 == image.height % 32 == 0
            assert len(image.getcolors(1 << 16) or []) > 1


def test_backgrounds_leave_every_colour_visible() -> None:
    for name, ground in palette.BACKGROUNDS.items():
        for colour in palette.on(name):
            assert sum(abs(a - b) for a, b in zip(palette.COLOURS[colour], ground, strict=True)) > 120, (name, colour)
