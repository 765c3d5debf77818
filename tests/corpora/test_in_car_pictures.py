"""The in-car pictures: visible, told apart, disjoint between splits, the same every time; and what is asked of them."""

import random
from collections import Counter

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from open4ov.corpora import clipart, icons, shapes
from open4ov.corpora.in_car import TASKS, items, load, pictures, questions, render, scene, symbol
from open4ov.corpora.in_car.questions import NAMED_FIRST, phrasings
from open4ov.corpora.in_car.render import CELLS, LIGHT, SIDE, cell, glyph, place, sign
from open4ov.errors import UserError

SYMBOLS = load()
SPLITS = ("train", "val", "test")


def stencil(each) -> Image.Image:
    """The bare symbol on black (tell-tale, white) or mid grey (sign)."""
    if each.codepoint is not None:
        return glyph(each).convert("RGB")
    drawing = sign(each)
    board = Image.new("RGB", (128, 128), (128, 128, 128))
    board.paste(drawing.convert("RGB"), ((128 - drawing.width) // 2, (128 - drawing.height) // 2), drawing)
    return board


def difference_hash(image: Image.Image) -> np.ndarray:
    """dHash, 512 bits: whether each of 16 x 16 areas is darker than its neighbour to the right, and below."""
    grey = np.asarray(image.convert("L").resize((17, 17), Image.Resampling.BOX), dtype=np.int16)
    return np.concatenate([(grey[:16, 1:] > grey[:16, :16]).ravel(), (grey[1:, :16] > grey[:16, :16]).ravel()])


@pytest.mark.parametrize("kind", ["tell_tale", "road_sign"])
def test_symbols_are_visually_apart(kind: str) -> None:
    group = [each for each in SYMBOLS if each.kind == kind]
    hashes = {each.id: difference_hash(stencil(each)) for each in group}
    small = {each.id: np.asarray(stencil(each).resize((48, 48)), dtype=np.float32) for each in group}
    # The closest pair, by far, are a road that narrows on one side and one that narrows on both.
    for i, one in enumerate(group):
        for other in group[i + 1 :]:
            bits = int((hashes[one.id] != hashes[other.id]).sum())
            pixels = float(np.abs(small[one.id] - small[other.id]).mean())
            assert bits >= 10, (one.id, other.id, bits)
            assert pixels >= 2, (one.id, other.id, pixels)


@pytest.mark.slow
def test_nothing_drawn_in_pretraining_comes_near_a_symbol() -> None:
    """Perceptual hash: whatever the general corpora draw is over 32 of 512 bits from every symbol."""
    boards = []
    for name in icons.names():
        mask, board = icons.mask(name, 184), Image.new("L", (192, 192))
        board.paste(mask, ((192 - mask.width) // 2, (192 - mask.height) // 2))
        boards.append((name, board.convert("RGB")))
    for name in clipart.names():
        drawing, board = clipart.picture(name, 128, False), Image.new("RGB", (128, 128), (128, 128, 128))
        board.paste(drawing, ((128 - drawing.width) // 2, (128 - drawing.height) // 2), drawing)
        boards.append((name, board))
    font = ImageFont.truetype(str(icons.ASSETS / "mdi" / "materialdesignicons.ttf"), 184)
    for name, code in shapes.shapes().items():
        board = Image.new("L", (192, 192))
        ImageDraw.Draw(board).text((96, 96), chr(code), font=font, fill=255, anchor="mm")
        boards.append((name, board.convert("RGB")))
    assert len(boards) > 7000
    general = np.stack([difference_hash(board) for _, board in boards])
    for each in SYMBOLS:
        bits = (general != difference_hash(stencil(each))).sum(axis=1)
        assert bits.min() > 32, (each.id, boards[int(bits.argmin())][0], int(bits.min()))


@pytest.mark.parametrize("each", SYMBOLS, ids=lambda each: each.id)
def test_renderings_show_the_symbol(each) -> None:
    for split in SPLITS:
        image = render(each, split, 0, 0)
        assert image.mode == "RGB"
        assert image.size == (SIDE, SIDE)
        size, left, top, _ = place(each, split, 0, 0)
        inside = np.asarray(image.crop((left, top, left + size, top + size)).convert("L"), dtype=np.float32)
        assert inside.std() > 12, split


@pytest.mark.parametrize("each", [each for each in SYMBOLS if each.kind == "tell_tale"], ids=lambda each: each.id)
def test_a_tell_tale_shines_in_its_colour(each) -> None:
    for index in range(3):
        pixels = np.asarray(render(each, "train", index, 0), dtype=np.float32).reshape(-1, 3)
        bright = pixels[np.argsort(pixels.sum(1))[-150:]].mean(0)
        nearest = min(LIGHT, key=lambda name: _angle(bright, np.asarray(LIGHT[name], dtype=np.float32)))
        assert nearest == each.colour, (index, bright)


def _angle(one: np.ndarray, other: np.ndarray) -> float:
    return float(-np.dot(one, other) / (np.linalg.norm(one) * np.linalg.norm(other)))


def test_splits_never_share_a_placement() -> None:
    seen: dict[str, set[tuple[int, int, int]]] = {split: set() for split in SPLITS}
    for split in SPLITS:
        for each in SYMBOLS[::7]:
            for index in range(40):
                size, left, top, _ = place(each, split, index, index % 3)
                assert cell(size, left, top) in CELLS[split]
                assert left >= 1
                assert top >= 1
                assert max(left, top) + size < SIDE
                seen[split].add((size, left, top))
    assert not seen["train"] & seen["val"]
    assert not seen["train"] & seen["test"]
    assert not seen["val"] & seen["test"]
    assert frozenset.union(*CELLS.values()) == frozenset(range(8))


def test_no_two_pictures_are_equal() -> None:
    found = {
        render(each, split, index, seed).tobytes()
        for each in SYMBOLS[::5]
        for split in SPLITS
        for index in range(3)
        for seed in range(2)
    }
    assert len(found) == len(SYMBOLS[::5]) * 3 * 3 * 2


def test_the_same_call_gives_the_same_picture() -> None:
    for name in ("abs", "stop_sign"):
        each = symbol(name)
        assert render(each, "val", 4, 9).tobytes() == render(each, "val", 4, 9).tobytes()
        assert place(each, "val", 4, 9)[:3] == place(each, "val", 4, 9)[:3]
    with pytest.raises(UserError, match="'dev' is not one of test, train, val"):
        render(symbol("abs"), "dev", 0, 0)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_questions_come_from_the_scene_alone(language) -> None:
    for each in SYMBOLS:
        facts = each.facts(language)
        asked = questions(scene(each, "train"), random.Random(1), language)
        assert tuple(qa.task for qa in asked) == TASKS
        name, meaning, severity, action, advice = asked
        assert (name.answer, name.aliases) == (facts.name, list(facts.aliases))
        assert (meaning.answer, action.answer) == (facts.meaning, facts.action)
        assert severity.answer == each.severity_in(language)
        assert advice.answer.startswith(facts.meaning)
        assert advice.answer.endswith(facts.action)
        mark = ": " if language == "en" else "："
        for qa in asked:
            named = qa.task in NAMED_FIRST
            assert qa.response == (f"{facts.name}{mark}{qa.answer}" if named else qa.answer)
            assert not named or qa.aliases == [qa.response]
        assert all(qa.question.isascii() == (language == "en") for qa in asked)


def test_wordings_do_not_give_the_answer_away() -> None:
    for kind in ("tell_tale", "road_sign"):
        for language in ("en", "zh"):
            wordings = [text for task in TASKS for text in phrasings(kind, task, language)]
            assert len(wordings) == len(set(wordings))
            for task in TASKS:
                assert len(phrasings(kind, task, language)) >= 3
            names = [each.facts(language).name for each in SYMBOLS]
            assert not [(n, w) for n in names for w in wordings if n.casefold() in w.casefold()]


def test_items_are_single_turn_samples_with_an_image() -> None:
    every = list(items("test", 1, seed=3))
    assert len(every) == len(SYMBOLS) * 2 * len(TASKS)
    assert len({item.sample.id for item in every}) == len(every)
    for item in every:
        sample = item.sample
        assert [message.role for message in sample.messages] == ["user", "assistant"]
        assert [part.type for part in sample.messages[0].content] == ["image", "text"]
        assert sample.messages[1].text in (sample.answer, *sample.aliases)
        assert (sample.split, sample.source) == ("test", "in_car")
        assert len(sample.images) == len(item.images) == 1
    fair = every[: len(SYMBOLS)]
    assert len({item.sample.scene["symbol"] for item in fair}) == len(SYMBOLS)
    tasks = Counter((item.sample.language, item.sample.task) for item in fair)
    assert len(tasks) == 2 * len(TASKS)
    assert max(tasks.values()) - min(tasks.values()) <= 1
    again = list(items("test", 1, seed=3))
    assert [item.sample for item in again] == [item.sample for item in every]
    assert [item.images[0].tobytes() for item in again[::50]] == [item.images[0].tobytes() for item in every[::50]]
    names = [item.sample for item in items("val", 1, languages=("zh",), tasks=("in_car_name",))]
    assert len(names) == len(SYMBOLS)
    assert {(sample.language, sample.task) for sample in names} == {("zh", "in_car_name")}


def test_pictures_are_bare_and_cover_every_symbol_first() -> None:
    first = [item.sample for item in pictures("train", 2)]
    assert [sample.scene["symbol"] for sample in first[: len(SYMBOLS)]] == [each.id for each in SYMBOLS]
    assert len({sample.id for sample in first}) == 2 * len(SYMBOLS)
    assert all(sample.messages == [] and sample.answer is None for sample in first)
