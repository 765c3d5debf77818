"""From weaknesses to a plan: shares worked out by hand, and what must hold whatever was measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from open4ov.loop import applied, planning
from open4ov.loop.found import AbilityFound, Belief, Change, Found, PlaceFound, Share
from open4ov.loop.places import Place, even, finest, of
from open4ov.loop.plan import Plan
from open4ov.recipe import Recipe

DOMAIN = "Automotive ~ Road signs"


def belief(loss: float) -> Belief:
    """`loss` as weaknesses.json has it: with the hundredth that is added."""
    return Belief(mean=loss - 0.01, low=0.0, high=1.0, loss=loss)


def places(*rows: tuple[str, float, float | None]) -> list[PlaceFound]:
    """(ability, share made, loss)"""
    share = Share(questions=9, right=0.5, low=0.2, high=0.8)
    return [
        PlaceFound(domain=DOMAIN, ability=ability, made=made, questions=9 if loss else 0,
                   right=share if loss else None, shortfall=belief(loss) if loss else None)
        for ability, made, loss in rows
    ]  # fmt: skip


def found(rows: list[PlaceFound], **more: Any) -> Found:
    told: dict[str, Any] = {"round": 1, "on": {"vertical": "x"}, "level": "ability_l1", "pairs": 1000, **more}
    return Found(vertical=Share(questions=9, right=0.5, low=0.2, high=0.8), places=rows, **told)


def recipe(**sections: Any) -> Recipe:
    return Recipe.model_validate({"name": "r", "rl": {"steps": 0}, **sections})


def shares(plan: Plan) -> dict[str | None, float]:
    return {topic.ability: topic.share for topic in plan.topics}


ROWS = places(("Counting", 0.5, 0.2), ("Knowledge", 0.3, 0.6), ("Recognition", 0.2, 0.4))


def test_shares_worked_out_by_hand() -> None:
    """Needs 0.1, 0.18 and 0.08 of 0.36 in all; 0.3 of the pairs stay as they fall."""
    plan = planning.make(found(ROWS), recipe(), "adaptive", None)
    assert shares(plan) == pytest.approx(
        {
            "Counting": 0.3 * 0.5 + 0.7 * 0.1 / 0.36,
            "Knowledge": 0.3 * 0.3 + 0.7 * 0.18 / 0.36,
            "Recognition": 0.3 * 0.2 + 0.7 * 0.08 / 0.36,
        },
        abs=2e-6,
    )
    assert (plan.round, plan.pairs, plan.start) == (2, 1000, "base")
    assert "wrong 50% of 9 questions" in plan.topics[0].reason


def test_a_place_that_was_not_asked_about_has_the_mean_need() -> None:
    rows = places(("Counting", 0.5, 0.2), ("Knowledge", 0.25, 0.6), ("Recognition", 0.25, None))
    plan = planning.make(found(rows), recipe(loop={"floor": 0.0}), "adaptive", None)
    mean = (0.2 * 0.5 + 0.6 * 0.25) / 0.75
    whole = 0.1 + 0.15 + mean * 0.25
    assert shares(plan)["Recognition"] == pytest.approx(mean * 0.25 / whole, abs=2e-6)
    assert plan.topics[2].reason == "not asked about: the mean need"


def answered(*rows: tuple[str, float, float]) -> list[PlaceFound]:
    """(ability, share made, share of right answers); the shortfall is what is missing to 1."""
    found = places(*((name, made, 1.01 - right) for name, made, right in rows))
    told = [Share(questions=40, right=right, low=0.0, high=1.0) for *_, right in rows]
    return [one.model_copy(update={"questions": 40, "right": share}) for one, share in zip(found, told, strict=True)]


def test_a_place_is_leaned_towards_as_far_as_it_is_being_learned() -> None:
    """Right 0, 1/4 and 1/2 of the answers: none, half and all of the lean. Of the pairs 0.5, and half of 0.3, stay
    where they fall; needs of the 0.35 that are left are 0.76 x 0.15 and 0.51 x 0.2."""
    looked = found(answered(("Reasoning", 0.5, 0.0), ("Knowledge", 0.3, 0.25), ("Recognition", 0.2, 0.5)))
    plan = planning.make(looked, recipe(loop={"floor": 0.0}), "adaptive", None)
    whole = 0.76 * 0.15 + 0.51 * 0.2
    assert shares(plan) == pytest.approx(
        {
            "Reasoning": 0.5,
            "Knowledge": 0.15 + 0.35 * 0.76 * 0.15 / whole,
            "Recognition": 0.35 * 0.51 * 0.2 / whole,
        },
        abs=2e-6,
    )
    reasons = [topic.reason.partition("; by all")[2].partition("; ")[2] for topic in plan.topics]
    assert reasons == ["nothing is right: no lean", "50% of the lean, since so little is right", ""]
    wrong = planning.make(looked, recipe(loop={"floor": 0.0, "learnable": 0.0}), "adaptive", None)
    needs = {"Reasoning": 1.01 * 0.5, "Knowledge": 0.76 * 0.3, "Recognition": 0.51 * 0.2}
    assert shares(wrong) == pytest.approx({name: need / sum(needs.values()) for name, need in needs.items()}, abs=2e-6)


MARKS = st.tuples(st.floats(0.01, 1), st.sampled_from([0.0, 0.0, 0.02, 0.2, 0.5, 0.9, 1.0]), st.floats(0.01, 1))


@given(st.lists(MARKS, min_size=1, max_size=12), st.floats(0, 1), st.floats(0.01, 1), st.sampled_from(["base", "last"]))
def test_a_place_where_nothing_is_right_has_its_even_share(
    rows: list[tuple[float, float, float]], floor: float, learnable: float, start: str
) -> None:
    """Also where it had more in the round before: that has not helped."""
    made, had = even([row[0] for row in rows]), even([row[2] for row in rows])
    chosen = recipe(loop={"floor": floor, "learnable": learnable, "start": start})
    looked = found(answered(*((f"a{n}", share, row[1]) for n, (share, row) in enumerate(zip(made, rows, strict=True)))))
    first = planning.make(looked, chosen, "adaptive", None)
    other = [topic.model_copy(update={"share": share}) for topic, share in zip(first.topics, had, strict=True)]
    second = planning.make(
        looked.model_copy(update={"round": 2}), chosen, "adaptive", first.model_copy(update={"topics": other})
    )
    for plan in (first, second):
        assert sum(topic.share for topic in plan.topics) == pytest.approx(1, abs=1e-9)
        for topic, (_, right, _) in zip(plan.topics, rows, strict=True):
            if not right:
                assert topic.share == pytest.approx(topic.without, abs=2e-6)


def test_a_fixed_plan_is_even_and_leaves_the_rest_to_the_recipe() -> None:
    plan = planning.make(found(ROWS, failed=3), recipe(rl={"steps": 1}), "fixed", None)
    assert shares(plan) == {"Counting": 0.5, "Knowledge": 0.3, "Recognition": 0.2}
    assert (plan.abilities, plan.replay, plan.ration, plan.hard, plan.better) == (None, None, None, False, [])
    assert applied.wishes(recipe(), plan) == []
    assert set(planning.unread_keys(recipe(), found(ROWS), "fixed")) == {"abilities", "replay", "ration", "hard"}
    assert plan.pairs == planning.make(found(ROWS), recipe(), "adaptive", None).pairs


def test_from_the_base_what_had_more_keeps_it_and_from_the_last_model_it_does_not() -> None:
    """All places are equally weak in round 2: from the base round 3 has round 2's needs, else the even ones."""
    first = planning.make(found(ROWS), recipe(loop={"floor": 0.0}), "adaptive", None)
    level = found(places(("Counting", 0.1, 0.3), ("Knowledge", 0.8, 0.3), ("Recognition", 0.1, 0.3)), round=2)
    again = planning.make(level, recipe(loop={"floor": 0.0}), "adaptive", first)
    assert shares(again) == pytest.approx(shares(first), abs=2e-6)
    on = planning.make(level, recipe(loop={"floor": 0.0, "start": "last"}), "adaptive", first)
    assert shares(on) == pytest.approx({"Counting": 0.5, "Knowledge": 0.3, "Recognition": 0.2}, abs=2e-6)
    assert [topic.without for topic in again.topics] == [0.5, 0.3, 0.2], "what falls to a place is round 1's"


@given(
    st.lists(st.tuples(st.floats(0.01, 1), st.one_of(st.none(), st.floats(0.01, 1.01))), min_size=1, max_size=12),
    st.floats(0, 1),
)
def test_shares_sum_to_one_and_none_falls_below_the_floor(rows: list[tuple[float, float | None]], floor: float) -> None:
    made = even([part for part, _ in rows])
    given_rows = places(*((f"a{n}", share, loss) for n, (share, (_, loss)) in enumerate(zip(made, rows, strict=True))))
    plan = planning.make(found(given_rows), recipe(loop={"floor": floor}), "adaptive", None)
    assert sum(topic.share for topic in plan.topics) == pytest.approx(1, abs=1e-9)
    assert all(topic.share >= floor * topic.without - 2e-6 for topic in plan.topics)


@given(st.floats(0.02, 1), st.floats(0.02, 1))
def test_of_two_equal_places_the_weaker_has_more(one: float, other: float) -> None:
    plan = planning.make(found(places(("a", 0.5, one), ("b", 0.5, other))), recipe(), "adaptive", None)
    told = shares(plan)
    assert (told["a"] - told["b"]) * (one - other) >= -1e-6


@given(st.lists(st.floats(0.001, 1000), min_size=1, max_size=40))
def test_rounded_shares_are_within_a_unit_and_sum_exactly(parts: list[float]) -> None:
    rounded = even(parts)
    assert round(sum(share * 10**6 for share in rounded)) == 10**6
    assert all(abs(share - part / sum(parts)) <= 1.01e-6 for share, part in zip(rounded, parts, strict=True))


# ------------------------------------------------------------------------------------------- abilities and ratios

ABILITIES = [
    AbilityFound(ability="Counting", size=0.5, questions=9, before=1.0, after=0.5, drop=belief(0.4)),
    AbilityFound(ability="Colour", size=0.5, questions=9, before=1.0, after=1.0, drop=belief(0.1)),
]


def change(drop: float, low: float, high: float) -> Change:
    return Change(questions=100, before=0.9, after=0.9 - drop, drop=drop, low=low, high=high)


def test_stage_2_has_more_of_what_was_lost() -> None:
    looked = found(ROWS, abilities=ABILITIES, general=change(0.1, 0.0, 0.2))
    plan = planning.make(looked, recipe(), "adaptive", None)
    assert plan.abilities is not None
    assert [one.share for one in plan.abilities] == pytest.approx([0.15 + 0.7 * 0.8, 0.15 + 0.7 * 0.2])
    blend = applied.recipe_of(recipe(), Path("x"), plan).sft.ability.blend
    assert blend == pytest.approx({"Counting": 0.71, "Colour": 0.29})
    measuring = recipe(sft={"held_out": 0.1, "ability": {"blend": "deficit"}})
    assert planning.make(looked, measuring, "adaptive", None).abilities is None


@pytest.mark.parametrize(
    ("general", "share", "why"),
    [
        (change(0.20, 0.10, 0.30), 0.5, "lost for certain"),
        (change(0.05, 0.03, 0.07), 0.43, "lost for certain"),
        (change(0.05, 0.00, 0.10), 0.4, "neither lost nor held"),
        (change(-0.02, -0.05, 0.01), 0.36, "held for certain"),
    ],
)
def test_replay_follows_what_is_lost_or_held_for_certain(general: Change, share: float, why: str) -> None:
    """margin 0.02, step 0.1: by as much as the drop is beyond the margin, a tenth at most."""
    looked = found(ROWS, abilities=ABILITIES, general=general)
    plan = planning.make(looked, recipe(sft={"knowledge": {"replay": 0.4}}), "adaptive", None)
    assert plan.replay is not None
    assert plan.replay.share == pytest.approx(share)
    assert why in plan.replay.reason
    assert applied.recipe_of(recipe(), Path("x"), plan).sft.knowledge.replay == plan.replay.share


def test_rationing_searches_nearer_to_what_was_found() -> None:
    """Half the span; at an edge the window stays within the recipe's."""
    rationed = recipe(admission={"ration": {"trials": 4, "lowest": 0.1, "highest": 0.5}}, sft={"pack_tokens": 512})
    looked = found(ROWS, abilities=ABILITIES, general=change(0.2, 0.1, 0.3), ratio=0.3)
    plan = planning.make(looked, rationed, "adaptive", None)
    assert plan.replay is None
    assert plan.ration is not None
    assert (plan.ration.lowest, plan.ration.highest) == pytest.approx((0.2, 0.4))
    edge = planning.make(looked.model_copy(update={"ratio": 0.5}), rationed, "adaptive", None).ration
    assert edge is not None
    assert (edge.lowest, edge.highest) == pytest.approx((0.3, 0.5))
    section = applied.recipe_of(rationed, Path("x"), plan).admission.ration
    assert (section.lowest, section.highest, section.trials) == (0.2, 0.4, 4), "as many trials: the same cost"


# ------------------------------------------------------------------------------------------------ places and wishes

WHERE = ("Automotive ~ Road signs", "Knowledge ~ Meaning", "Knowledge ~ Meaning ~ Of tow zones", "task")


def test_places_by_level() -> None:
    assert of(WHERE, "topic") == Place(WHERE[0], None, WHERE[2])
    assert of(WHERE, "l2") == Place(WHERE[0], WHERE[1], None)
    assert of(WHERE, "ability_l1") == Place(WHERE[0], "Knowledge", None)
    assert of(WHERE, "l1") == Place("Automotive", "Knowledge", None)
    assert of((None, None, None, "task"), "l1") is None


def test_more_questions_give_finer_places() -> None:
    taught = [(f"D ~ {d}", f"A ~ {a}", f"A ~ {a} ~ {t}", "x") for d in range(2) for a in range(3) for t in range(4)]
    assert [finest(taught, count) for count in (24 * 8, 24 * 8 - 1, 6 * 8, 6 * 8 - 1, 2 * 8, 8, 1)] == [
        "topic", "l2", "l2", "ability_l1", "ability_l1", "l1", "l1"]  # fmt: skip


def test_wishes_ask_for_the_plans_shares() -> None:
    """Factors 2 and 1/4 are weights of 1 more and 3 less; what changes by a hundredth is not asked for."""
    plan = planning.make(found(ROWS), recipe(), "fixed", None)
    changed = zip(plan.topics, (0.505, 0.6, 0.05), strict=True)
    plan = plan.model_copy(update={"topics": [topic.model_copy(update={"share": share}) for topic, share in changed]})
    told = [(wish.want, wish.domain, wish.ability, wish.weight) for wish in applied.wishes(recipe(), plan)]
    assert told == [("more", DOMAIN, "Knowledge", pytest.approx(1)), ("less", DOMAIN, "Recognition", pytest.approx(3))]
