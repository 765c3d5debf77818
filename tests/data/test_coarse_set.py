"""The pictures that coarse matching is measured on, and the measure: against enumeration and invented rankings."""

from __future__ import annotations

import csv
import hashlib
import json
from collections import Counter
from itertools import combinations, islice, permutations, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mllm.endpoint import endpoint
from PIL import Image, ImageOps

from bench import coarse
from open4ov.corpora import clipart, icons, in_car
from open4ov.corpora.in_car.render import glyph, sign
from open4ov.data import hashing, labels, match
from open4ov.data.images import folder
from open4ov.errors import UserError
from open4ov.images import MAX_PIXELS, open_image
from open4ov.mllm import AnswerError, Asker, Request
from open4ov.recipe import DataSection
from open4ov.store import ImageStore

LICENCES = {
    "Public domain", "No known copyright restrictions", "CC0-1.0", "MIT", "Apache-2.0", "CC-BY-2.0",
}  # fmt: skip
ASSETS = Path(coarse.__file__).parents[1] / "src" / "open4ov" / "assets"
TREE = labels.load()


def rows(name: str) -> list[dict[str, str]]:
    with (coarse.SET / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_every_picture_has_its_row_and_every_row_its_picture() -> None:
    for name, place in (("labels.csv", "images"), ("others.csv", "others")):
        listed = [row["file"] for row in rows(name)]
        assert listed == sorted(path.name for path in (coarse.SET / place).iterdir())
        assert all(row["source"] and row["licence"] in LICENCES for row in rows(name))
    files = [path for path in coarse.SET.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 3_000_000
    for path in files:
        if path.suffix == ".webp":
            with Image.open(path) as image:
                assert max(image.size) <= 320, path


def test_the_labels_are_as_the_paper_has_them_and_spread_over_the_tree() -> None:
    shown, others = coarse.read()
    assert len(shown) >= 220
    assert len(others) >= 15
    known = {axis: {l1.id for l1 in TREE.axis(axis)} for axis in labels.AXES}
    for each in shown:
        assert 2 <= len(each.labels["domain"]) <= 3, each.file
        assert 1 <= len(each.labels["ability"]) <= 3, each.file
        for axis in labels.AXES:
            assert len(set(each.labels[axis])) == len(each.labels[axis]), each.file
            assert set(each.labels[axis]) <= known[axis], each.file
    counts = Counter(one for each in shown for one in each.labels["domain"])
    assert set(counts) == known["domain"]
    assert min(counts.values()) >= 40


def test_the_catalog_ranks_none_of_them(tmp_path: Path) -> None:
    """No annotation lies beside a picture or is found for it, so who answers from annotations answers nothing."""
    shown, others = coarse.read()
    skipped: list[dict[str, str]] = []
    for place in ("images", "others"):
        samples = list(islice(folder(coarse.SET / place, MAX_PIXELS, ImageStore(tmp_path), skipped), 15))
        assert [sample.scene for sample in samples] == [None] * 15
    assert not skipped
    found = {path.suffix for path in coarse.SET.rglob("*") if path.is_file()}
    assert found == {".webp", ".csv", ".md", ".txt"}
    asker = Asker(DataSection())
    answers = asker.ask_many([match.request(each.picture(), TREE, "") for each in (*shown, *others)])
    assert len(answers) == len(shown) + len(others)
    assert all(isinstance(answer, AnswerError) and "no annotation" in str(answer) for answer in answers)


def framed(image: Image.Image) -> Image.Image:
    """On white with a margin, as the pictures of the set are."""
    image = image.convert("RGBA")
    ground = Image.new("RGBA", image.size, "white")
    ground.alpha_composite(image)
    return ImageOps.expand(ground.convert("RGB"), max(6, max(image.size) // 20), "white")


def black(mask: Image.Image) -> Image.Image:
    return framed(ImageOps.invert(mask.crop(mask.getbbox())))


def known_pictures() -> list[Image.Image]:
    """Every drawing, sign, tell-tale and symbol that ships, each alone on white."""
    symbols = in_car.load()
    return [
        *(framed(clipart.picture(name, 192, False)) for name in clipart.names()),
        *(framed(sign(symbol)) for symbol in symbols if symbol.kind == "road_sign"),
        *(black(glyph(symbol)) for symbol in symbols if symbol.kind == "tell_tale"),
        *(black(icons.mask(name, 96)) for name in icons.names()),
    ]


def copies(images: list[Image.Image], known: list[Image.Image]) -> list[int]:
    """Which images are a known picture or its mirror image: hashes within 8 bits, and grey levels that go together."""
    ours, theirs = (np.stack([hashing.thumbnail(image) for image in group]) for group in (images, known))
    a, b = hashing.prints(ours), hashing.prints(theirs)
    grey, other = (hashing.grey(group) for group in (ours, theirs))
    found: list[int] = []
    for image, number in product(range(len(images)), range(2)):
        near = np.flatnonzero(np.bitwise_count((b.hashes, b.mirrored)[number] ^ a.hashes[image]) <= 8)
        levels = grey[image, :, :: -1 if number else 1].ravel()
        found += [image for k in near if np.corrcoef(levels, other[k].ravel())[0, 1] > 0.9]
    return sorted(set(found))


def test_none_is_a_picture_that_ships() -> None:
    shown, others = coarse.read()
    known = known_pictures()
    planted = [ImageOps.mirror(image.resize((190, 170)).quantize(16).convert("RGB")) for image in known[:40]]
    assert copies(planted, known) == list(range(40))  # what must be found is
    everything = [*shown, *others]
    assert [everything[n].file.name for n in copies([open_image(each.file) for each in everything], known)] == []
    shipped = {hashlib.sha256(path.read_bytes()).hexdigest() for path in ASSETS.rglob("*") if path.is_file()}
    assert not shipped & {hashlib.sha256(each.file.read_bytes()).hexdigest() for each in everything}


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 5).flatmap(
        lambda count: st.tuples(
            st.just(count), st.lists(st.integers(1, count), min_size=1, max_size=3), st.integers(1, count + 1)
        )
    )
)
def test_chance_is_what_all_orders_give(case: tuple[int, list[int], int]) -> None:
    count, sizes, top = case
    names = [str(n) for n in range(count)]
    orders = list(permutations([*names, labels.OTHERS]))
    hits = sum(
        bool(set(match.above_others(order, names, top)) & set(names[:size])) for size in sizes for order in orders
    )
    found = coarse.chance([names[:size] for size in sizes], count, top)
    assert found == pytest.approx(hits / (len(orders) * len(sizes)), abs=1e-12)


def test_constant_answers() -> None:
    annotated = [["a", "b"], ["a", "b"], ["a", "c"], ["d", "e"]]
    found = coarse.constant(annotated, ["e", "d", "c", "b", "a"], 2)
    assert found["most frequent"] == (["a", "b"], 0.75)
    reach = {pair: sum(bool(set(pair) & set(each)) for each in annotated) / 4 for pair in combinations("edcba", 2)}
    assert found["best"][1] == max(reach.values()) == 1.0


class Ranker:
    """Ranks as it is told: a description, and what stands above *Others* by axis."""

    concurrency = 1

    def __init__(self, above: dict[str, dict[str, list[str]]]) -> None:
        self.above = above

    def identity(self, role: str) -> str:
        return "invented"

    def answer(self, request: Request) -> dict[str, Any]:
        assert request.role == "rank"
        assert request.images[0].scene is None
        above = self.above[request.images[0].sha]
        rest = {axis: [name for name in TREE.names(axis) if name not in above[axis]] for axis in labels.AXES}
        return {"description": "", **{axis: [*above[axis], labels.OTHERS, *rest[axis]] for axis in labels.AXES}}


def ask(ranker: Any) -> tuple[list[Any], list[Any]]:
    shown, others = coarse.read()
    asker = Asker(DataSection(), {"default": ranker})
    found = asker.ask_many([match.request(each.picture(), TREE, "") for each in (*shown, *others)])
    return found[: len(shown)], found[len(shown) :]


def right() -> dict[str, dict[str, list[str]]]:
    """What the annotator would answer."""
    shown, others = coarse.read()
    found = {each.picture().sha: {"domain": [], "ability": []} for each in others}
    for row, each in enumerate(shown):
        found[each.picture().sha] = {axis: coarse.names(shown, TREE, axis)[row] for axis in labels.AXES}
    return found


def test_the_annotators_own_ranking_is_all_valid_and_wrong_ones_are_counted() -> None:
    shown, others = coarse.read()
    above = right()
    first, last = shown[0].picture().sha, others[-1].picture().sha
    wrong = [name for name in TREE.names("domain") if name not in above[first]["domain"]][:3]
    above[first]["domain"] = wrong
    above[last]["ability"] = ["Counting"]
    answers, beyond = ask(Ranker(above))
    answers[1] = AnswerError("a refusal")
    text = coarse.measured(shown, answers, beyond, TREE, 3)
    count = len(shown)
    assert f"| domain | {count} | {count - 2} |" in text
    assert f"| ability | {count} | {count - 1} |" in text
    assert f"| rightly: belong under no label | {len(others)} | {len(others)} (100.0 %" in text
    assert f"| {len(others) - 1} (" in text
    assert f"| wrongly: have labels | {count} | 0 (0.0 %" in text
    assert f"Without a usable answer: 1 of {count + len(others)}" in text


def test_nothing_answered_is_no_result() -> None:
    shown, others = coarse.read()
    failed = [AnswerError("the endpoint is gone")]
    with pytest.raises(UserError, match="no picture was ranked; the first answer: the endpoint is gone"):
        coarse.measured(shown, failed * len(shown), failed * len(others), TREE, 3)


def test_what_was_trained_on_is_left_out_wherever_it_lies(tmp_path: Path) -> None:
    shown, _ = coarse.read()
    clipart_rows = [each for each in shown if each.source.startswith("openclipart")]
    assert len({each.drawing for each in clipart_rows}) == len(clipart_rows)
    listed = tmp_path / "trained.txt"
    listed.write_text(f"elsewhere/{clipart_rows[0].drawing}.svg\n{clipart_rows[1].drawing}\n\nnone/of_them\n")
    left = coarse.untrained(shown, listed)
    assert [each for each in shown if each not in left] == clipart_rows[:2]
    assert coarse.untrained(shown, None) == shown
    with pytest.raises(UserError, match="--trained"):
        coarse.untrained(shown, tmp_path / "missing.txt")


def test_a_tree_without_a_label_of_the_set_is_refused(tmp_path: Path) -> None:
    tree = TREE.model_copy(update={"domain": TREE.domain[1:]})
    with pytest.raises(UserError, match="no domain automotive"):
        coarse.names(coarse.read()[0], tree, "domain")


def test_a_recipe_is_all_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through a recipe and a real endpoint: pictures as sent, answers by picture, kept in the folder given."""
    shown, others = coarse.read()
    few, beyond = shown[:6], others[:2]
    monkeypatch.setattr(coarse, "read", lambda: (few, beyond))
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    names = {axis: TREE.names(axis) for axis in labels.AXES}
    answer = {"description": "d", **{axis: [names[axis][0], "Others", *names[axis][1:]] for axis in labels.AXES}}

    with endpoint(lambda body, number: json.dumps(answer)) as server:
        recipe = tmp_path / "r.yaml"
        recipe.write_text(
            "name: r\nmodel: nano\ndata:\n  providers:\n    default: {kind: catalog}\n"
            f"    asked: {{kind: openai, base_url: '{server.url}', model: m}}\n  roles: {{rank: asked}}\n"
        )
        text = coarse.run(recipe, tmp_path / "out")
        assert coarse.run(recipe, tmp_path / "out") == text
    assert len(server.bodies) == 8  # the second run asked nothing
    valid = sum("automotive" in each.labels["domain"] for each in few)
    assert f"| domain | 6 | {valid} |" in text
    assert "## r.yaml: rank:m" in text
