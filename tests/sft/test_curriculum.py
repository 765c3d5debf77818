from __future__ import annotations

import random
from itertools import groupby, pairwise

import pytest

from open4ov.sample import Sample, assistant, mastery_of, user
from open4ov.sft import curriculum
from open4ov.sft.curriculum import Material
from open4ov.sft.ordering import by_difficulty, by_picture


def sample(name: str, image: str | None = None, rate: float | None = None, language: str = "en") -> Sample:
    return Sample.model_validate(
        {
            "id": name,
            "source": "test",
            "task": "colour",
            "language": language,
            "images": [image] if image else [],
            "messages": [user(f"question {name}", images=1 if image else 0), assistant(f"It is {name}.")],
            "answer": name,
            "pass_rate": rate,
            "mastery": mastery_of(rate),
        }
    )


def order(material: Material, tokens: int, **changes: float) -> curriculum.Order:
    options: dict = {"replay": 0.0, "turns": 3, "noise": 0.0, "longest": 100, "seed": 0} | changes
    return curriculum.order(material, tokens, length=lambda s: 10 * len(s.messages), **options)


def names(samples: list[Sample]) -> list[str]:
    return sorted(name for s in samples for name in (s.lineage or [s.id]))


def test_one_epoch_holds_every_question_once_in_conversations_about_one_image() -> None:
    material = [sample(f"{i}", image=f"image{i // 4}") for i in range(8)] + [sample("t")]
    plan = order(Material(material, []), tokens=180)
    assert names(plan.samples) == sorted(s.id for s in material)
    assert sorted(len(s.messages) // 2 for s in plan.samples) == [1, 1, 1, 3, 3]
    for conversation in plan.samples:
        shown = [p for m in conversation.messages for p in m.content if p.type == "image"]
        assert len(shown) == len(conversation.images) <= 1
        assert conversation.messages[0].content[0].type == ("image" if conversation.images else "text")
    assert (plan.tokens, plan.epochs, plan.too_long) == (180, 1.0, [])


def test_the_next_epoch_merges_anew() -> None:
    material = Material([sample(f"{i}", image="one") for i in range(9)], [])
    plan = order(material, tokens=360)
    first, second = plan.samples[:3], plan.samples[3:]
    assert names(plan.samples) == sorted(2 * [s.id for s in material.own])
    assert {tuple(s.lineage) for s in first} != {tuple(s.lineage) for s in second}
    assert plan == order(material, tokens=360)
    assert plan != order(material, tokens=360, seed=1)


def test_difficulty_goes_from_mastered_to_unmastered() -> None:
    rates = [0.0, 1.0, 0.5, 0.25, 1.0, 0.0]
    plan = order(Material([sample(f"{i}", rate=rate) for i, rate in enumerate(rates)], []), tokens=120)
    assert [s.mastery for s in plan.samples] == ["mastered"] * 2 + ["partial"] * 2 + ["unmastered"] * 2


def test_noise_softens_the_order_but_difficulty_still_rises() -> None:
    rng = random.Random(0)
    material = [sample(f"{i}", rate=rng.choice([0.0, 0.5, 1.0])) for i in range(300)]
    ordered = by_difficulty(material, 1.0, 0)
    rates = [s.pass_rate or 0.0 for s in ordered]
    assert rates != sorted(rates, reverse=True)
    assert sum(rates[:100]) > sum(rates[100:200]) > sum(rates[200:])


def test_replay_takes_its_share_and_is_spread_evenly() -> None:
    material = Material([sample(f"o{i}") for i in range(80)], [sample(f"r{i}") for i in range(50)])
    plan = order(material, tokens=2000, replay=0.2)
    replayed = [i for i, s in enumerate(plan.samples) if s.id.startswith("r")]
    assert len(plan.samples) == 100
    assert len(replayed) == 20
    assert max(b - a for a, b in pairwise(replayed)) <= 5


def test_a_budget_below_an_epoch_is_spent_evenly_over_the_tasks() -> None:
    many = [sample(f"m{i}") for i in range(50)]
    few = [sample(f"f{i}").model_copy(update={"task": "naming"}) for i in range(10)]
    taken = names(order(Material([*many, *few], []), tokens=400).samples)
    assert len(taken) == 20
    assert sum(name.startswith("f") for name in taken) == 10
    assert len(names(order(Material([*many, *few], []), tokens=1200).samples)) == 60


def test_conversations_that_fit_no_pack_are_listed() -> None:
    plan = order(Material([sample("a"), sample("b")], []), tokens=100, longest=19)
    assert plan.samples == []
    assert plan.too_long == ["a", "b"]


def test_an_empty_set_yields_to_the_replay() -> None:
    assert names(order(Material([], [sample("r")]), tokens=40, replay=0.1).samples) == ["r", "r"]
    assert order(Material([], []), tokens=40).samples == []


def test_joined_samples_average_their_grades() -> None:
    merged = curriculum.joined([sample("a", "x", 1.0), sample("b", "x", 0.0)])
    assert (merged.pass_rate, merged.mastery, merged.answer) == (0.5, "partial", None)
    assert merged.lineage == ["a", "b"]


def test_questions_about_a_picture_may_stand_together() -> None:
    """Where their difficulty allows it; one that comes again stands elsewhere."""
    pictures = [f"p{i % 50}" for i in range(200)]
    samples = [sample(f"{i}", picture, rate=1.0 if i < 150 else 0.0) for i, picture in enumerate(pictures)]
    ordered = by_difficulty([*samples, *samples[:100]], 1.0, 0, gather=True)
    known = [s for s in ordered if s.pass_rate == 1.0]
    runs = [len(list(run)) for _, run in groupby(known, key=lambda s: s.images[0])]
    assert len(runs) == pytest.approx(100, abs=5), "fifty pictures, in two epochs"
    places = {name: [i for i, s in enumerate(ordered) if s.id == name] for name in map(str, range(100))}
    apart = [abs(first - second) for first, second in places.values()]
    assert sum(apart) / len(apart) > 50
    rates = [s.pass_rate or 0.0 for s in ordered]
    assert sum(rates[:100]) == 100 > sum(rates[200:])
    assert [s.id for s in by_picture(samples, 1)] != [s.id for s in by_picture(samples, 2)]
    assert len(list(groupby(by_picture(samples, 1), key=lambda s: s.images[0]))) == 50
