"""Budgets that sum to a total, weights by scenario, and the second opinion on pictures whose content is known."""

from __future__ import annotations

import heapq
import random
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from open4ov.data import density, labels
from open4ov.data.agreement import spearman
from open4ov.data.density_evidence import agreement, components, measure, text_specks
from open4ov.errors import UserError
from open4ov.mllm import Prompt
from open4ov.recipe import DataSection

IDS = st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.25, 0.5, 1.0, 5e-324, 1e-310]))


@given(st.lists(IDS, max_size=30), st.integers(0, 4), st.integers(0, 6), st.floats(0, 1))
def test_budgets_sum_exactly_lie_within_bounds_and_never_fall(
    ids: list[float], least: int, more: int, share: float
) -> None:
    total = least * len(ids) + round(share * more * len(ids))
    found = density.allocate(ids, least, least + more, total)
    assert sum(found) == total
    assert all(least <= pairs <= least + more for pairs in found)
    ranked = sorted(zip(ids, found, strict=True))
    for (low, few), (high, many) in pairwise(ranked):
        assert few <= many or low == high


@given(st.lists(st.sampled_from([0.1, 0.2, 0.3, 0.6, 0.9, 1.0]), min_size=1, max_size=12), st.integers(0, 40))
def test_the_allocation_is_webster_s(ids: list[float], further: int) -> None:
    """Against the method as it is defined: one seat after another to the highest quotient."""
    least, most = 2, 9
    further = min(further, 7 * len(ids))
    queue = [(-value, -value, 0, n) for n, value in enumerate(ids)]
    heapq.heapify(queue)
    want = [least] * len(ids)
    for _ in range(further):
        _, _, has, n = heapq.heappop(queue)
        want[n] += 1
        if want[n] < most:
            heapq.heappush(queue, (-ids[n] / (2 * has + 3), -ids[n], has + 1, n))
    assert density.allocate(ids, least, most, 2 * len(ids) + further) == want


def test_further_pairs_are_proportional_and_what_cannot_be_had_is_refused() -> None:
    assert density.allocate([0.1, 0.2, 0.3], 1, 100, 63) == [11, 21, 31]
    assert density.allocate([0.0, 0.5], 1, 3, 4) == [1, 3]
    assert density.allocate([0.0, 0.5], 1, 3, 5) == [2, 3]
    assert density.allocate([], 1, 3, 0) == []
    for total in (1, 7):
        with pytest.raises(UserError, match=r"data\.total_pairs: . pairs cannot be had of 2 images .*\(2 to 6\)"):
            density.allocate([0.1, 0.2], 1, 3, total)
    with pytest.raises(UserError, match="max_pairs"):
        density.allocate([0.1], 3, 1, 2)


def test_a_scenario_has_weights_of_its_own() -> None:
    section = DataSection(density_scenarios={"Healthcare": {"knowledge": 2}, "Nature": {"subjects": 1, "space": 1}})
    assert density.weights(section, ["Automotive", "Nature", "Healthcare"])["space"] == 0.5
    assert density.weights(section, ["Healthcare"]) == {"subjects": 0, "space": 0, "ocr": 0, "knowledge": 1}
    assert density.weights(section, ["Automotive"]) == density.weights(section)
    density.check_scenarios(section, labels.load())
    with pytest.raises(UserError, match="no domain L1 is called so; did you mean 'Healthcare'"):
        density.check_scenarios(DataSection(density_scenarios={"Healthcar": {"ocr": 1}}), labels.load())


def test_the_prompt_has_an_anchored_rubric_for_each_dimension() -> None:
    text = Prompt("density", {"annotation": "{left} 路"}).text
    assert "{left} 路" in text
    for name in density.DIMENSIONS:
        rubric = text.split(f"\n{name}: ")[1].split("\n\n")[0]
        assert [line.split(":")[0] for line in rubric.splitlines()[1:]] == ["- 0", "- 0.25", "- 0.5", "- 0.75", "- 1"]


@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(1, 9))
def test_components_are_those_of_a_flood_fill(seed: int, high: int, wide: int) -> None:
    codes = np.random.default_rng(seed).integers(0, 2, (high, wide))
    want, count = np.full(codes.shape, -1), 0
    for start in np.ndindex(codes.shape):
        if want[start] >= 0:
            continue
        stack = [start]
        while stack:
            y, x = stack.pop()
            if 0 <= y < high and 0 <= x < wide and want[y, x] < 0 and codes[y, x] == codes[start]:
                want[y, x] = count
                stack += [(y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)]
        count += 1
    assert np.array_equal(components(codes), want)


def scene(things: int, lines: int, seed: int) -> Image.Image:
    rng = random.Random(seed)
    image = Image.new("RGB", (240, 240), (236, 236, 230))
    draw = ImageDraw.Draw(image)
    for n in rng.sample(range(16), things):
        x, y = 8 + 58 * (n % 4), 8 + 58 * (n // 4)
        colour = rng.choice([(200, 30, 30), (20, 120, 40), (30, 60, 190), (230, 190, 20), (90, 30, 120)])
        (draw.ellipse if rng.random() < 0.5 else draw.rectangle)((x, y, x + 40, y + 40), fill=colour)
    for n in range(lines):
        draw.text((6, 6 + 24 * n), "Speed limit 50 ahead", fill=(0, 0, 0), font_size=16)
    return image


def test_the_second_opinion_ranks_pictures_as_they_were_drawn() -> None:
    counts = [n for n in range(0, 13, 2) for _ in range(3)]
    found = [measure(scene(n, 0, seed)) for seed, n in enumerate(counts)]
    assert (spearman(counts, [one["subjects"] for one in found]) or 0) > 0.8
    assert (spearman(counts, [one["space"] for one in found]) or 0) > 0.8
    assert all(one["ocr"] < 0.2 for one in found)
    lines = list(range(9))
    assert (spearman(lines, [measure(scene(0, n, 0))["ocr"] for n in lines]) or 0) > 0.9
    assert text_specks(scene(0, 1, 0)) >= 10
    inverted = Image.eval(scene(0, 2, 0), lambda value: 255 - value)
    assert text_specks(inverted) >= 20  # bright text on dark too


def test_a_plain_picture_holds_nothing_and_annotations_speak_for_knowledge() -> None:
    plain = measure(Image.new("RGB", (30, 20), (9, 9, 9)))
    assert plain == {"subjects": 0.0, "space": 0.0, "ocr": 0.0}
    few, many = ({"meaning": {"en": "a b"}}, {"meaning": {"en": "a b c d"}, "names": ["e f"]})
    picture = Image.new("L", (3, 500))
    assert 0 < measure(picture, few)["knowledge"] < measure(picture, many)["knowledge"] < 1


def test_agreement_is_by_dimension_over_what_was_measured() -> None:
    scored = [dict.fromkeys(density.DIMENSIONS, value) for value in (0.1, 0.5, 0.9)]
    measured = [{"subjects": 0.2, "ocr": 0.3}, {"subjects": 0.3, "ocr": 0.2}, {"subjects": 0.4, "ocr": 0.1}]
    found = agreement(scored, measured)
    assert found["subjects"] == {"rho": pytest.approx(1.0), "images": 3}
    assert found["ocr"] == {"rho": pytest.approx(-1.0), "images": 3}
    assert found["knowledge"] == {"rho": None, "images": 0}
    assert found["mean"] == {"rho": None, "images": 3}
