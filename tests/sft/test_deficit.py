"""The blend of stage 2: shrinkage against known truths, shares, and a draw that follows them."""

from __future__ import annotations

import random
from collections import Counter
from statistics import fmean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from open4ov.errors import UserError
from open4ov.sample import Label, Sample, assistant, user
from open4ov.sft import curriculum, deficit
from open4ov.sft.curriculum import Blend, Material

Marks = list[tuple[bool, bool]]


def marks(kept: int = 0, lost: int = 0, gained: int = 0, missed: int = 0) -> Marks:
    return [(True, True)] * kept + [(True, False)] * lost + [(False, True)] * gained + [(False, False)] * missed


def sample(name: str, task: str, ability: str | None = None) -> Sample:
    labels = [Label(axis="domain", l1="Roads"), Label(axis="ability", l1=ability, score=0.9)] if ability else []
    messages = [user(f"question {name}"), assistant(f"It is {name}.")]
    return Sample(id=name, source="t", task=task, messages=messages, answer=name, labels=labels)


def test_the_eight_schools() -> None:
    """The example of Gelman et al., Bayesian Data Analysis, 5.5: posterior means of the effects, printed there and in
    Stan's documentation as about 11, 8, 6, 8, 5, 6, 11 and 8."""
    effects = (28, 8, -3, 7, -1, 1, 18, 12)
    errors = (15, 10, 16, 11, 9, 11, 10, 18)
    found = deficit.posteriors([(y, e**2) for y, e in zip(effects, errors, strict=True)], widest=40)
    assert [one.mean for one in found] == pytest.approx([11, 8, 6, 8, 5, 6, 11, 8.5], abs=0.7)
    assert found[0].quantile(0.5) == pytest.approx(10, abs=0.7)
    assert found[0].quantile(0.975) == pytest.approx(31, abs=2)
    assert found[0].quantile(0.025) == pytest.approx(-2, abs=1)


def test_the_expected_loss_is_that_of_a_simulation() -> None:
    rng = random.Random(0)
    for parts in (((1.0, 0.1, 0.05),), ((0.5, -0.1, 0.1), (0.5, 0.2, 0.05)), ((0.2, -0.3, 0.05), (0.8, 0.0, 0.1))):
        drawn = [rng.choices(parts, [part[0] for part in parts])[0] for _ in range(40_000)]
        losses = fmean(max(0.0, rng.gauss(mean, deviation)) for _, mean, deviation in drawn)
        assert deficit.Belief(parts).expected_loss == pytest.approx(losses, abs=2e-3)


def test_few_questions_are_shrunk_more_than_many() -> None:
    found = deficit.measure(
        {"many": marks(kept=60, lost=40), "few": marks(kept=3, lost=2), "sound": marks(kept=100)},
        {"many": 0.4, "few": 0.2, "sound": 0.4},
    )
    assert found["many"].drop == found["few"].drop == 0.4
    centre = 0.25
    assert abs(found["few"].shrunk - 0.4) > abs(found["many"].shrunk - 0.4)
    assert found["few"].shrunk > centre - 0.1
    assert found["few"].high - found["few"].low > found["many"].high - found["many"].low
    assert found["sound"].low < 0.02 < found["many"].low
    assert (found["many"].before, found["many"].after, found["many"].questions) == (1.0, 0.6, 100)


def test_shrinking_comes_nearer_to_the_truth_than_the_raw_means() -> None:
    """Eight abilities with known drops, few questions each: mean squared error over 60 draws; 95 % intervals hold."""
    rng = random.Random(3)
    raw, shrunk, inside = 0.0, 0.0, 0
    for _ in range(60):
        truth = {f"a{i}": min(0.6, max(0.0, rng.gauss(0.2, 0.1))) for i in range(8)}
        asked = {name: [(True, rng.random() >= drop) for _ in range(15)] for name, drop in truth.items()}
        found = deficit.measure(asked, dict.fromkeys(truth, 1 / 8))
        raw += sum((found[name].drop - truth[name]) ** 2 for name in truth)
        shrunk += sum((found[name].shrunk - truth[name]) ** 2 for name in truth)
        inside += sum(found[name].low <= truth[name] <= found[name].high for name in truth)
    assert shrunk < 0.75 * raw
    assert inside / 480 > 0.9


def test_what_was_lost_gets_more_and_what_was_not_keeps_the_floor() -> None:
    asked = {"reading": marks(kept=40, lost=60), "counting": marks(kept=80, lost=20), "colour": marks(kept=100)}
    sizes = dict.fromkeys(asked, 0.25) | {"unasked": 0.25}
    found = deficit.measure(asked, sizes)
    shares = deficit.shares(found, sizes, 0.2)
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["reading"] > 2 * shares["counting"] > 4 * shares["colour"]
    assert shares["unasked"] == pytest.approx(0.05)
    assert shares["colour"] == pytest.approx(0.05, abs=0.02)
    assert deficit.shares(found, sizes, 1.0) == pytest.approx(dict.fromkeys(sizes, 0.25))
    twice = deficit.measure(asked, sizes | {"counting": 0.5})
    assert twice["counting"].need == pytest.approx(2 * found["counting"].need)


def test_nothing_lost_is_blended_evenly() -> None:
    """Nobody is known to need more: shares follow the sizes, and noise moves them little."""
    same = deficit.measure({"a": marks(kept=30), "b": marks(kept=30)}, {"a": 0.5, "b": 0.5})
    assert deficit.shares(same, {"a": 0.5, "b": 0.5}, 0.2) == pytest.approx({"a": 0.5, "b": 0.5})
    names = "abcdefgh"
    asked = {name: marks(kept=49, lost=i % 2, gained=1 - i % 2) for i, name in enumerate(names)}
    noisy = deficit.shares(deficit.measure(asked, dict.fromkeys(names, 1 / 8)), dict.fromkeys(names, 1 / 8), 0.3)
    assert all(0.07 < share < 0.18 for share in noisy.values())
    gained = deficit.measure({"a": marks(gained=90, kept=10), "b": marks(gained=95, kept=5)}, {"a": 0.5, "b": 0.5})
    assert deficit.shares(gained, {"a": 0.5, "b": 0.5}, 0.2) == pytest.approx({"a": 0.5, "b": 0.5})


@pytest.mark.parametrize("gain", [0.05, 0.3, 0.9])
@pytest.mark.parametrize("few", [10, 200])
def test_where_all_have_grown_shares_follow_the_set(gain: float, few: int) -> None:
    """Whatever the number of questions: what is not known to be lost is not compared."""
    questions, sizes = {"a": 200, "b": few, "c": 200}, {"a": 0.6, "b": 0.1, "c": 0.3}
    asked = {name: marks(gained=round(n * gain), kept=n - round(n * gain)) for name, n in questions.items()}
    shares = deficit.shares(deficit.measure(asked, sizes), sizes, 0.3)
    even = {name: 0.1 + 0.7 * size for name, size in sizes.items()}
    assert shares == pytest.approx(even, abs=0.1 if gain < 0.1 else 0.04)
    assert deficit.shares({}, sizes, 0.3) == pytest.approx(even)


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from("abcdef"),
        st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=30),
        min_size=1,
    ),
    st.floats(0, 1),
)
def test_shares_are_shares_whatever_was_answered(asked: dict[str, Marks], floor: float) -> None:
    names = [*asked, "unasked"]
    found = deficit.measure(asked, dict.fromkeys(names, 1 / len(names)))
    shares = deficit.shares(found, dict.fromkeys(names, 1 / len(names)), floor)
    assert sum(shares.values()) == pytest.approx(1)
    assert all(share >= floor / len(names) - 1e-12 for share in shares.values())
    for one in found.values():
        assert one.low <= one.shrunk <= one.high
        assert one.need >= 0


def test_abilities_are_labels_and_tasks_where_there_are_none() -> None:
    both = sample("a", "charts", "Reasoning")
    both.labels.append(Label(axis="ability", l1="Reading", score=0.95))
    assert curriculum.ability(both) == "Reading"
    assert list(curriculum.by_ability([sample("b", "sum"), both, sample("c", "sum", "Reading")])) == ["Reading", "sum"]


def test_the_probe_asks_each_ability_in_turn() -> None:
    some = [sample(f"{task}{i}", task) for task, count in (("a", 9), ("b", 2), ("c", 5)) for i in range(count)]
    some.append(sample("open", "d").model_copy(update={"answer": None}))
    chosen = deficit.choose(some, 8)
    assert [s.task for s in chosen] == ["a", "b", "c", "a", "b", "c", "a", "c"]
    assert len(deficit.choose(some, 99)) == 16
    assert deficit.choose(some[::-1], 8) == chosen  # whatever their order in the file
    assert {s.id for s in chosen if s.task == "a"} != {"a0", "a1", "a2"}  # nor the first ones


def test_the_probe_asks_once_about_a_picture_before_it_asks_again() -> None:
    some = [sample(f"a{i}", "a").model_copy(update={"images": [f"p{i // 4}"]}) for i in range(20)]
    chosen = deficit.choose(some, 7)
    assert len({s.images[0] for s in chosen[:5]}) == 5
    assert len(chosen) == 7


def blended(own: list[Sample], shares: dict[str, float], tokens: int, epochs: float = 4.0) -> curriculum.Order:
    return curriculum.order(
        Material(own, []), tokens, 0.0, 1, 1.0, lambda s: 10, 100, 0, blend=Blend(shares, epochs)
    )  # fmt: skip


def test_the_probe_is_a_draw_of_many_pictures() -> None:
    questions = [
        sample(f"{i}", "colour").model_copy(update={"images": [f"p{i // 4}"], "answer": "red"}) for i in range(80)
    ]
    chosen = deficit.choose(questions, 25)
    assert chosen == deficit.choose(questions[::-1], 25)
    assert len({s.images[0] for s in chosen[:20]}) == 20, "one question of each picture first"
    assert len({s.id for s in chosen}) == 25
    assert {int(s.id) % 4 for s in chosen} == {0, 1, 2, 3}, "not the first ones of the file"


def test_a_further_part_of_a_stage_has_what_is_left_of_the_epochs() -> None:
    own = [sample(f"{task}{i}", task) for task, count in (("a", 100), ("c", 10)) for i in range(count)]
    material, drawn, tokens = Material(own, []), Counter[str](), 0
    plans: list[curriculum.Order] = []
    for _ in range(4):
        blend = Blend({"a": 0.5, "c": 0.5}, 2.0).after(own, own, drawn)
        plans.append(
            curriculum.order(material, 250, 0.0, 1, 1.0, lambda s: 10, 100, 0, blend=blend, before=drawn)
        )  # fmt: skip
        drawn += plans[-1].drawn
        tokens += plans[-1].tokens
    assert {drawn[f"c{i}"] for i in range(10)} == {2}, "twice in all, not in each part"
    assert [plan.abilities["c"][2] for plan in plans] == [False, True, True, True]
    assert tokens == pytest.approx(1000, abs=20), "the others have the rest"


def test_a_blend_is_drawn_by_its_shares_and_the_scarce_repeated() -> None:
    own = [sample(f"{task}{i}", task) for task, count in (("a", 100), ("b", 100), ("c", 5)) for i in range(count)]
    plan = blended(own, {"a": 0.5, "b": 0.3, "c": 0.2}, 1000)
    assert plan.abilities == {"a": (500, 0.5, False), "b": (300, 0.3, False), "c": (200, 4.0, False)}
    assert plan.tokens == 1000
    assert {plan.drawn[f"c{i}"] for i in range(5)} == {4}
    assert plan == blended(own, {"a": 0.5, "b": 0.3, "c": 0.2}, 1000)


def test_what_runs_out_leaves_its_share_to_the_others() -> None:
    own = [sample(f"{task}{i}", task) for task, count in (("a", 100), ("b", 100), ("c", 5)) for i in range(count)]
    plan = blended(own, {"a": 0.6, "b": 0.2, "c": 0.2}, 1000, epochs=2)
    tokens = {name: about[0] for name, about in plan.abilities.items()}
    assert plan.abilities["c"] == (100, 2.0, True)
    assert sum(tokens.values()) == pytest.approx(1000, abs=20)
    assert tokens["a"] / tokens["b"] == pytest.approx(3, abs=0.2)
    short = blended(own[:10], {"a": 1.0}, 1000, epochs=2)
    assert (short.tokens, short.abilities["a"]) == (200, (200, 2.0, True))


def test_a_blend_by_hand_names_abilities_that_are_there() -> None:
    own = [sample("x", "colour"), sample("y", "naming")]
    assert curriculum.by_hand({"colour": 1.0}, own) == {"colour": 1.0}
    with pytest.raises(UserError, match=r"sft\.ability\.blend\.color: .*did you mean 'colour'\?"):
        curriculum.by_hand({"color": 0.5, "naming": 0.5}, own)


def test_tokens_are_counted_by_ability() -> None:
    own = [sample("x", "colour"), sample("y", "naming")]
    counted = deficit.tokens_of([(["x", "y"], 30), (["x"], 10), (["elsewhere"], 99)], own)
    assert counted == {"colour": 25, "naming": 15}
