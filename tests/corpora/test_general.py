"""The general corpora as a whole: determinism, splits, held-out symbols, and nothing of a vertical."""

from __future__ import annotations

import hashlib
import os
import random
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from open4ov.corpora import TASKS, Item, clipart, dense, fonts, generate, icons, in_car, palette, scenes, words
from open4ov.corpora.looking import plural
from open4ov.corpora.splits import composition, split_of
from open4ov.errors import UserError
from open4ov.sample import Sample
from open4ov.store import ImageStore

DIGEST = """
import hashlib
from open4ov.corpora import TASKS, dense, generate
digest = hashlib.sha256()
items = [dense("train", index, seed=5) for index in range(60)]
items += [item for task in TASKS for item in generate(task, "test", 6)]
for item in items:
    digest.update(item.sample.model_dump_json().encode())
    for image in item.images:
        digest.update(image.tobytes())
print(digest.hexdigest())
"""


def test_same_seed_same_bytes_in_two_processes() -> None:
    runs = {
        subprocess.run(
            [sys.executable, "-c", DIGEST], env={**os.environ, "PYTHONHASHSEED": salt}, capture_output=True, check=True
        ).stdout
        for salt in ("1", "2")
    }
    assert len(runs) == 1


def test_another_seed_or_index_is_another_item() -> None:
    texts = {dense("train", index, seed).sample.model_dump_json() for index in range(10) for seed in range(3)}
    assert len(texts) == 30


@pytest.mark.parametrize("task", TASKS)
def test_splits_share_no_composition(task: str) -> None:
    seen: dict[str, set[object]] = {}
    for split in ("train", "val", "test"):
        items = list(generate(task, split, 80))
        assert all(item.sample.split == split and split_of(item.sample.scene or {}) == split for item in items)
        seen[split] = {composition(item.sample.scene or {}) for item in items}
    assert not seen["train"] & seen["val"]
    assert not seen["train"] & seen["test"]
    assert not seen["val"] & seen["test"]


def test_splits_are_eight_one_one() -> None:
    rng = random.Random("share")
    share = Counter(split_of(scenes.grid(rng, "train")) for _ in range(2000))
    assert 0.77 < share["train"] / 2000 < 0.83
    assert 0.08 < share["test"] / 2000 < 0.12


@pytest.mark.parametrize("task", ["counting", "position", "comparing"])
def test_held_out_symbols_are_asked_about_in_test_only(task: str) -> None:
    assert len(icons.held_out()) == 60
    said = {form for name in icons.held_out() for form in (name, plural(name))}
    pattern = re.compile(r"\b(" + "|".join(re.escape(form) for form in sorted(said, key=len, reverse=True)) + r")\b")
    everything = {form for name in icons.names() for form in (name, plural(name))}
    longest = re.compile(r"\b(" + "|".join(re.escape(n) for n in sorted(everything, key=len, reverse=True)) + r")\b")

    def mentions(item: Item) -> bool:
        scene = item.sample.scene or {}
        drawn = {t["name"] for part in [scene, *scene.get("scenes", [])] for t in part["objects"]}
        text = f"{item.sample.messages[0].text} {item.sample.answer}"
        found = {form for form in longest.findall(text) if pattern.fullmatch(form)}
        return any(found & {name, plural(name)} for name in drawn & icons.held_out())

    assert not any(mentions(item) for item in generate(task, "train", 300))
    assert sum(mentions(item) for item in generate(task, "test", 100)) > 10


def test_held_out_symbols_are_named_in_every_split() -> None:
    for split in ("train", "test"):
        named = {item.sample.answer for item in generate("naming", split, 600)}
        assert len(named & icons.held_out()) > 20


def test_names_are_plenty_and_distinct() -> None:
    symbols = icons.symbols()
    assert 550 <= len(symbols) <= 650
    assert len({symbol.zh for symbol in symbols.values()}) == len(symbols)
    assert 150 <= len(clipart.names()) <= 260
    assert all(len(name.split()) <= 3 for name in [*symbols, *clipart.names()])


def test_the_font_draws_every_chinese_character_used() -> None:
    drawn = fonts.characters()
    used = {c for symbol in icons.symbols().values() for c in symbol.zh}
    used |= {c for drawing in clipart.drawings().values() for c in drawing.zh}
    used |= {c for word in words.CHINESE for c in word} | {c for name in palette.CHINESE.values() for c in name}
    for index in range(300):
        used |= {c for message in dense("train", index).sample.messages for c in message.text}
    assert not used - drawn
    blank = np.asarray(fonts.mask("\U0001f600", 24))  # not in the font: the box for a missing glyph
    for character in sorted(drawn - {" "}):
        ink = np.asarray(fonts.mask(character, 24))
        assert ink.shape != blank.shape or (ink != blank).any(), character


def ink(picture: Image.Image) -> np.ndarray:
    """A mask cropped, centred in a square and reduced to 24 by 24, mean 0 and norm 1."""
    side = max(picture.size)
    square = Image.new("L", (side, side))
    square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    flat = np.asarray(square.resize((24, 24), Image.Resampling.BOX), dtype=np.float64).ravel()
    flat -= flat.mean()
    return flat / max(1e-9, float(np.linalg.norm(flat)))


def test_symbols_are_apart_from_one_another() -> None:
    table = np.stack([ink(icons.mask(name, 64)) for name in icons.names()])
    alike = table @ table.T - np.eye(len(table))
    assert alike.max() < 0.93


def test_no_symbol_looks_like_a_tell_tale() -> None:
    table = np.stack([ink(icons.mask(name, 64)) for name in icons.names()])
    tell_tales = [s for s in in_car.load() if s.codepoint]
    font = icons._font(64)
    assert len(tell_tales) > 50
    for symbol in tell_tales:
        canvas = Image.new("L", (96, 96))
        ImageDraw.Draw(canvas).text((48, 48), chr(int(str(symbol.codepoint), 16)), font=font, fill=255, anchor="mm")
        closest = float((table @ ink(canvas.crop(canvas.getbbox()))).max())
        assert closest < 0.9, (symbol.id, icons.names()[int((table @ ink(canvas.crop(canvas.getbbox()))).argmax())])


@pytest.mark.slow
def test_nothing_of_a_vertical_is_drawn_or_said() -> None:
    kept_out = in_car.excluded()
    icons_out = {*kept_out["automotive"], *kept_out["medical"]}
    assert not [symbol.name for symbol in icons.symbols().values() if symbol.mdi in icons_out]
    for drawing in clipart.drawings().values():
        assert not drawing.source.startswith(tuple(kept_out["openclipart_prefixes"]))
        text = f"{drawing.name} {drawing.source}".replace("_", " ").lower()
        assert not [word for word in kept_out["openclipart_words"] if re.search(rf"\b{word}\b", text)]
    talks = [dense("train", index, seed=8, late=late) for late in (False, True) for index in range(1500)]
    said = "\n".join(message.text for item in talks for message in item.sample.messages)
    said += "\n" + "\n".join([*icons.names(), *clipart.names(), *words.ENGLISH, *words.CHINESE])
    english = in_car.fragments("en")
    assert len(english) > 100
    found = re.search(r"\b(?:" + "|".join(re.escape(f.lower()) for f in english) + r")\b", said.lower())
    assert found is None, found
    assert not [f for f in in_car.fragments("zh") if f in said]
    medical = "hospital|ambulance|pill|syringe|stethoscope|needle|doctor|nurse|bandage|medicine|pharmacy|vaccine"
    assert not re.search(rf"\b(?:{medical})\b", said.lower())


def test_items_are_samples_that_can_be_stored(tmp_path: Path) -> None:
    store = ImageStore(tmp_path)
    for index in range(30):
        item = dense("val", index)
        sample = item.store(store)
        assert Sample.model_validate_json(sample.model_dump_json()) == sample
        parts = [p.index for m in sample.messages for p in m.content if p.type == "image"]
        assert parts == list(range(len(item.images)))
        for sha, image in zip(sample.images, item.images, strict=True):
            assert hashlib.sha256(store.path(sha).read_bytes()).hexdigest() == sha
            assert store.get(sha).tobytes() == image.tobytes()


def test_identifiers_are_distinct() -> None:
    found = [i.sample.id for task in TASKS for split in ("train", "test") for i in generate(task, split, 20)]
    found += [
        dense(split, index, seed).sample.id for split in ("train", "val") for index in range(20) for seed in (0, 1)
    ]
    assert len(set(found)) == len(found)


def test_wrong_names_are_refused_with_what_is_known() -> None:
    with pytest.raises(UserError, match="did you mean 'counting'"):
        generate("countin", "train", 1)
    with pytest.raises(UserError, match="train, val, test"):
        generate("counting", "dev", 1)
    with pytest.raises(UserError, match="zh has naming"):
        generate("charts", "train", 1, language="zh")
