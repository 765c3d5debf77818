"""A feedback file moves what data construction makes next, as asked, at an equal total; and what it may not say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from made_up import MadeUp, asker

from open4ov import pipeline
from open4ov.corpora import in_car
from open4ov.data import density, labels, question_types, synthesize, topics, wishes
from open4ov.data.construct import Result, estimate, make
from open4ov.data.report import warnings
from open4ov.errors import UserError
from open4ov.feedback import Feedback, Wish
from open4ov.mllm.ask import Picture
from open4ov.mllm.weights import due
from open4ov.recipe import DataSection, ProviderSection, Recipe
from open4ov.sample import Sample
from open4ov.store import ImageStore

SIGNS, LIGHTS = ("Automotive", "Road signs"), ("Automotive", "Dashboard tell-tales")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ImageStore:
    return ImageStore(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def images(store: ImageStore) -> list[Sample]:
    every = [item.store(store) for item in in_car.pictures("train", 1)]
    return [one for at, one in enumerate(every) if at % 3 == 0]


@pytest.fixture(scope="module")
def plain(images: list[Sample], store: ImageStore) -> Result:
    return make(images, DataSection(), store)


def fed(images: Sequence[Sample], store: ImageStore, path: Path, *asked: Wish, **options: Any) -> Result:
    Feedback(source="test", wishes=list(asked)).write(path / "feedback.yaml")
    return make(images, DataSection(feedback=str(path / "feedback.yaml"), **options), store)


def l2(result: Result, axis: str) -> Counter[str]:
    return Counter(label.l2 or "" for one in result.samples for label in one.labels if label.axis == axis)


def test_more_of_an_ability_gives_more_of_it_and_as_many_of_the_rest(
    images: list[Sample], store: ImageStore, plain: Result, tmp_path: Path
) -> None:
    wish = Wish(want="more", ability="Knowledge ~ What to do", weight=1.0)
    result = fed(images, store, tmp_path, wish)
    (told,) = result.report["feedback"]["wishes"]
    before, after = l2(plain, "ability"), l2(result, "ability")
    assert after["What to do"] == pytest.approx(2 * before["What to do"], rel=0.2)
    assert told["kept"] == after["What to do"]
    assert told["asked"] == pytest.approx(2 * told["before"], abs=0.1)
    rest = sum(before.values()) - before["What to do"], sum(after.values()) - after["What to do"]
    assert rest[1] == pytest.approx(rest[0], rel=0.15)


@pytest.mark.slow
def test_at_an_equal_total_more_of_one_domain_is_less_of_another(
    images: list[Sample], store: ImageStore, tmp_path: Path
) -> None:
    total = 4 * len(images)
    without = make(images, DataSection(total_pairs=total), store)
    more = Wish(want="more", domain="Automotive ~ Road signs", weight=2.0)
    result = fed(images, store, tmp_path, more, total_pairs=total)
    before, after = l2(without, "domain"), l2(result, "domain")
    assert after["Road signs"] > 1.2 * before["Road signs"]
    assert after["Dashboard tell-tales"] < 0.9 * before["Dashboard tell-tales"]
    assert result.report["counts"]["made"] == pytest.approx(without.report["counts"]["made"], rel=0.05)
    assert sum(int(n) * many for n, many in result.report["density"]["budgets"].items()) == total
    # what an image shows is not a matter of wishes
    kinds = {one.images[0]: (one.scene or {})["symbol_kind"] for one in images}
    assert all((kinds[one.images[0]] == "road_sign") == (one.labels[0].l2 == "Road signs") for one in result.samples)


def test_less_of_a_task_and_more_of_a_topic(
    images: list[Sample], store: ImageStore, plain: Result, tmp_path: Path
) -> None:
    (path, count), *_ = Counter(one.topics[0] for one in plain.samples).most_common()
    result = fed(
        images, store, tmp_path,
        Wish(want="less", task="in_car_name", weight=4.0), Wish(want="more", topic=path, weight=3.0),
    )  # fmt: skip
    tasks = [Counter(one.task for one in found.samples) for found in (plain, result)]
    assert tasks[1]["in_car_name"] < 0.6 * tasks[0]["in_car_name"]
    assert sum(path in one.topics for one in result.samples) > 1.2 * count
    less, more = result.report["feedback"]["wishes"]
    assert (less["before"], less["asked"], less["kept"]) == (None, None, tasks[1]["in_car_name"])
    assert more["kept"] == sum(path in one.topics for one in result.samples)


def test_better_uses_no_sample_again_and_asks_anew(
    images: list[Sample], store: ImageStore, plain: Result, tmp_path: Path
) -> None:
    bad = [one.id for one in plain.samples if one.topics[0].startswith("Knowledge ~ Meaning")][:20]
    wish = Wish(want="better", ability="Knowledge ~ Meaning", samples=bad, reason="contradict the picture")
    result = fed(images, store, tmp_path, wish)
    assert not {one.id for one in result.samples} & set(bad)
    was = {one.id for one in plain.samples if one.topics[0].startswith("Knowledge ~ Meaning")}
    now = {one.id for one in result.samples if one.topics[0].startswith("Knowledge ~ Meaning")}
    assert len(now - was) > 0.3 * len(now)  # others are asked
    assert len(now) == pytest.approx(len(was), rel=0.3)  # about as many
    assert result.report["counts"]["kept"] == pytest.approx(plain.report["counts"]["kept"], rel=0.05)


def test_a_wish_that_names_nothing_known_is_refused_with_file_and_line(
    images: list[Sample], store: ImageStore, tmp_path: Path
) -> None:
    file = tmp_path / "f.yaml"
    for text, said in (
        (
            "  domain: Automotiv\n",
            r"f\.yaml, line 4: wishes\.0\.domain: the label tree .* has no domain 'Automotiv'; did you",
        ),
        ("  ability: Knowledge ~ Meanin\n", r"line 4: wishes\.0\.ability: .*did you mean 'Knowledge ~ Meaning'"),
        ("  topic: Knowledge ~ Men ~ X\n", r"line 4: wishes\.0\.topic: .* no ability 'Knowledge ~ Men'"),
        ("  topic: Meaning of signs\n", r"line 4: wishes\.0\.topic: .*a topic is 'ability L1 ~ ability L2 ~ name'"),
        ("  topic: Knowledge ~ Meaning ~ X\n  ability: Recognition\n", "line 4: .* does not lie under 'Recognition'"),
        ("  topic: Knowledge ~ Meaning ~ Meaning of brake lights\n", "line 4: .*there is no topic .*needs its domain"),
    ):
        file.write_text(f"open4ov: feedback-1\nwishes:\n- want: more\n{text}")
        with pytest.raises(UserError, match=said):
            make(images[:2], DataSection(feedback=str(file)), store)


def test_a_topic_that_is_wished_under_a_domain_is_added(
    images: list[Sample], store: ImageStore, tmp_path: Path
) -> None:
    path = "Knowledge ~ Meaning ~ Meaning of brake warning lights and stop signs"
    result = fed(images[:8], store, tmp_path, Wish(want="more", domain="Automotive ~ Road signs", topic=path))
    assert topics.Topic(path.split(" ~ ")[-1], SIGNS, ("Knowledge", "Meaning")) in result.topics
    assert result.report["feedback"]["topics_added"] == 1


def test_a_wish_that_leads_to_nothing_is_told(images: list[Sample], store: ImageStore, tmp_path: Path) -> None:
    result = fed(images[:4], store, tmp_path, Wish(want="more", domain="Nature"), Wish(want="less", task="counting"))
    lines = [line for line in warnings(result.report) if "feedback" in line]
    assert lines == ["data.feedback: wish 0 (more of domain 'Nature') led to no sample: no image has a topic there"]


def test_the_stage_is_made_anew_when_the_file_says_something_else(tmp_path: Path) -> None:
    file = tmp_path / "f.yaml"
    config = pipeline.graph(Recipe(name="t")).stages["data"].config
    keys: list[Any] = []
    for weight in (1, 2):
        Feedback(wishes=[Wish(want="more", domain="Automotive", weight=weight)]).write(file)
        keys.append(config(Recipe(name="t", data=DataSection(feedback=str(file)))))
    assert keys[0] != keys[1]
    assert "data.feedback" not in config(Recipe(name="t"))["files"]  # type: ignore[index]
    with pytest.raises(UserError, match=r"data\.feedback: no such file"):
        config(Recipe(name="t", data=DataSection(feedback=str(tmp_path / "none.yaml"))))


def topic(
    name: str, ability: tuple[str, str] = ("Knowledge", "Meaning"), domain: tuple[str, str] = SIGNS
) -> topics.Topic:
    return topics.Topic(name, domain, ability)


def read(path: Path, *asked: Wish) -> wishes.Wishes:
    Feedback(wishes=list(asked)).write(path / "f.yaml")
    return wishes.read(path / "f.yaml", labels.load())


def test_factors_multiply_and_are_bounded(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        Wish(want="more", domain="Automotive", weight=1.0),
        Wish(want="less", ability="Knowledge ~ Meaning", weight=3.0),
        Wish(want="more", topic="Knowledge ~ Meaning ~ a", weight=99.0),
        Wish(want="more", task="counting", weight=2.0),
    )
    assert found.factor(topic("a")) == 16  # 2 · 1/4 · 100, cut at 16
    assert found.factor(topic("b")) == 0.5
    assert found.factor(topic("b"), "counting") == 1.5
    assert found.factor(topic("b", ("Recognition", "Category"), ("Nature", "Animals"))) == 1
    tree = labels.load()
    assert found.lean([(topic("b"), 0.1), (topic("c", ("Recognition", "Category")), 0.1)], tree) == (0.5 + 2) / 2
    pair = next(pair for pair in tree.pairs({"Automotive"}, {"Knowledge"}))
    assert found.limit(pair, 12) == 12  # meaning is wished less of, which asks for no fewer topics
    pairs = {(one[1].name, one[3].name): found.limit(one, 12) for one in tree.pairs({"Automotive"}, {"Knowledge"})}
    assert pairs["Road signs", "What to do"] == 24


def test_a_wish_that_nothing_would_fall_to_gets_the_nearest_images(tmp_path: Path) -> None:
    found = read(tmp_path, Wish(want="more", ability="Recognition"), Wish(want="more", domain="Nature"))
    category = ("Recognition", "Category")
    near = [(topic("a"), 0.5), (topic("b"), 0.45), (topic("c"), 0.4), (topic("d", category), 0.35)]
    assert found.others(near, 2) == []  # 0.35 is less than 0.8 of 0.45
    assert [(wish, one.name, score) for wish, one, score in found.others(near, 3)] == [(0, "d", 0.35)]
    assert found.others(near, 4) == []  # it has one
    assert found.others([*near[:3], (topic("e", category, LIGHTS), 0.39)], 3) == []  # what it shows is another domain
    possible = [wishes.Other(0, image, 7, score) for image, score in ((4, 0.2), (5, 0.4), (6, 0.3), (6, 0.5))]
    assert [one.image for one in found.replacing(possible, [0.0, 0.0])] == [6, 5]  # as many as the factor, 2
    assert found.replacing(possible, [3.0, 0.0]) == []  # weights alone do it
    assert found.expect(near) == [0.25, 0]
    assert found.touches(near) == [1, 0]


def test_turns_are_in_proportion_to_weights_and_plain_without() -> None:
    tree = labels.load()
    three = [topic("a"), topic("b"), topic("c", ("Recognition", "Category"))]
    planned = question_types.plan(three, tree, 6, ["en"], 1)
    assert [one.topic.rsplit(" ~ ")[-1] for one in planned] == ["a", "b", "c", "a", "b", "c"]

    def weight(path: str, kind: str | None) -> float:
        return (3.0 if path.endswith("a") else 1.0) * (2.0 if kind == "choice" else 1.0)

    many = question_types.plan(three, tree, 50, ["en"], 0, weight)
    assert Counter(one.topic.rsplit(" ~ ")[-1] for one in many) == {"a": 30, "b": 10, "c": 10}
    kinds = Counter(one.type for one in many)
    assert kinds["choice"] == pytest.approx(2 * kinds["open"], abs=2)


@pytest.mark.parametrize("rounds", [1, 3, 10])
def test_turns_over_all_orders_are_in_proportion_however_few_there_are(rounds: int) -> None:
    weights, had = (4.0, 1.0, 1.0, 2.0), [0] * 4
    for order in permutations(range(4)):
        mine = [0] * 4
        for _ in range(rounds):
            one = min(range(4), key=lambda n: due(weights[n], mine[n], order[n], 4))
            mine[one] += 1
        had = [a + b for a, b in zip(had, mine, strict=True)]
    assert [count / sum(had) for count in had] == pytest.approx([0.5, 0.125, 0.125, 0.25], abs=0.09)


def test_budgets_lean_within_their_bounds() -> None:
    assert [density.leaning(0.5, 2, 8, factor) for factor in (0.1, 0.5, 1.0, 1.5, 9.0)] == [2, 3, 5, 8, 8]
    assert density.leaning(0.5, 2, 8, 1.0) == density.budget(0.5, 2, 8)


def test_a_model_is_told_what_is_wished_and_nothing_without(
    images: list[Sample], store: ImageStore, tmp_path: Path
) -> None:
    provider, plain = MadeUp(), MadeUp()
    Feedback(
        wishes=[
            Wish(want="better", domain="Automotive", reason="answers name other things", samples=["x"]),
            Wish(want="more", task="meaning"),
        ]
    ).write(tmp_path / "f.yaml")
    section = DataSection(feedback=str(tmp_path / "f.yaml"), topics_per_pair=1)
    without = section.model_copy(update={"feedback": None})
    make(images[:12], section, store, asker=asker(section, provider))
    make(images[:12], without, store, asker=asker(without, plain))
    texts = [one.prompt.text for one in provider.of("synthesize")]
    again = [text for text in texts if "turned out wrong or too poor (answers name other things)" in text]
    assert again
    assert len(again) < len(texts)  # images of other domains are asked as before
    assert all("- meaning: more" in text for text in texts)
    assert not any(
        "turned out" in one.prompt.text or "wanted than" in one.prompt.text for one in plain.of("synthesize")
    )
    picture = Picture(images[0].images[0], lambda: store.get(images[0].images[0]))
    asked = synthesize.request(picture, labels.load(), [topic("a")], 2, ["en"], 7)
    assert set(asked.prompt.values) == {
        "topics", "plan", "types", "budget", "languages", "annotation", "annotated", "seed",
    }  # fmt: skip


def test_a_dry_run_knows_nothing_of_topics_and_does_not_refuse_them(
    images: list[Sample], store: ImageStore, tmp_path: Path
) -> None:
    path = "Knowledge ~ Meaning ~ Meaning of things that no guess names"
    Feedback(wishes=[Wish(want="more", topic=path)]).write(tmp_path / "f.yaml")
    model = ProviderSection(kind="openai", base_url="http://127.0.0.1:9/v1", model="m")
    tree = labels.load()
    small = tree.model_copy(update={"domain": tree.domain[:1], "frozen": {}})
    (tmp_path / "labels.yaml").write_text(labels.dump(small), encoding="utf-8")
    section = DataSection(
        feedback=str(tmp_path / "f.yaml"), labels=str(tmp_path / "labels.yaml"), topics_per_pair=1,
        providers={"default": model},
    )  # fmt: skip
    assert estimate(images[:2], section, store, 0)
