"""Balance: shares on both axes, repeats, shortfalls and what is asked for, and what a recipe may not say."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made import KNOWN, mix, sample

from open4ov.admission.balance import Balanced, balance
from open4ov.admission.scarce import TopicOf, feedback
from open4ov.errors import UserError
from open4ov.feedback import read
from open4ov.recipe import load
from open4ov.recipe_balance import BalanceSection
from open4ov.sample import Label, Sample

UNEVEN = {("Cars", "Naming"): 300, ("Cars", "Counting"): 60, ("Food", "Naming"): 80, ("Food", "Counting"): 40}


def drawn(counts: dict[tuple[str | None, str | None], int] | None = None, **options: Any) -> Balanced:
    return balance(mix(counts or UNEVEN), BalanceSection(**{"samples": "as_many", **options}), KNOWN)


def held(found: Balanced, axis: str) -> Counter[str]:
    return Counter(label.l1 for one in found.samples for label in one.labels if label.axis == axis)


def test_both_axes_are_uniform_at_once() -> None:
    found = drawn()
    assert len(found.samples) == 480
    assert held(found, "domain") == {"Cars": 240, "Food": 240}
    assert held(found, "ability") == {"Naming": 240, "Counting": 240}
    assert found.shortfalls == []
    assert found.figures["axes"]["domain"]["after"]["gini"] == 0
    assert found.figures["axes"]["domain"]["before"]["gini"] == 0.25  # shares of 1/4 and 3/4


def test_a_repeat_has_an_id_of_its_own_and_says_what_it_is() -> None:
    found = drawn()
    assert len({one.id for one in found.samples}) == 480
    again = [one for one in found.samples if one.steps]
    assert len(again) == 480 - found.figures["samples"]["different"] > 0
    assert all(one.lineage[-1] in {s.id for s in found.samples} for one in again)
    assert max(found.counts) <= 3


def test_as_is_takes_every_sample_once_and_a_power_lies_between() -> None:
    assert set(drawn(domain="as_is", ability="as_is").counts) == {1}
    shares = [held(drawn(domain=power, ability="as_is"), "domain")["Food"] for power in (1.0, 0.5, 0.0)]
    assert shares[0] == 120
    assert shares[1] == round(480 / (1 + 3**0.5))  # √(1/3) to 1
    assert shares[2] == 240


def test_shares_that_are_named() -> None:
    found = drawn(domain={"Cars": 0.9, "Food": 0.1}, ability={"Naming": 1.0}, samples=200)
    assert held(found, "domain") == {"Cars": 180, "Food": 20}
    assert set(held(found, "ability")) == {"Naming"}


def test_what_cannot_be_had_is_a_shortfall_and_not_filled_up_with_others() -> None:
    found = drawn({("Cars", "Naming"): 300, ("Food", "Naming"): 10}, samples=300, max_repeat=2)
    assert held(found, "domain")["Food"] == 20
    (short,) = (one for one in found.shortfalls if one.axis == "domain")
    assert (short.label, short.have, short.target, short.got) == ("Food", 10, 150, 20)
    assert short.scarce
    absent = drawn(domain={"Cars": 0.5, "Food": 0.5}, counts={("Cars", "Naming"): 50})
    assert [(one.label, one.have, one.got) for one in absent.shortfalls if one.axis == "domain"] == [("Food", 0, 0)]


def test_a_label_that_has_enough_is_short_for_want_of_the_other_axis_and_not_asked_for() -> None:
    found = drawn({("Cars", "Naming"): 300, ("Cars", "Counting"): 300, ("Food", "Counting"): 20}, max_repeat=2)
    told = {one.label: one.scarce for one in found.shortfalls}
    assert told["Food"]
    assert not told.get("Counting", False)
    assert not told.get("Naming", False)
    samples = mix({("Cars", "Naming"): 300, ("Cars", "Counting"): 300, ("Food", "Counting"): 20})
    assert {wish.domain for wish in feedback(samples, found.shortfalls, 2).wishes} == {"Food"}
    diagonal = drawn({("Cars", "Naming"): 60, ("Food", "Counting"): 60}, domain={"Cars": 0.2, "Food": 0.8})
    assert {one.scarce for one in diagonal.shortfalls} == {False}
    asked = feedback(mix({("Cars", "Naming"): 60, ("Food", "Counting"): 60}), diagonal.shortfalls, 3).wishes
    assert {(wish.domain, wish.ability) for wish in asked} == {("Food", None), (None, "Naming")}


def test_unlabelled_samples_keep_their_share_or_go_and_are_counted() -> None:
    counts = {**UNEVEN, (None, "Naming"): 60, (None, None): 60}
    kept = drawn(counts)
    assert sum(not one.labels or one.labels[0].axis != "domain" for one in kept.samples) == 120
    assert kept.figures["axes"]["domain"]["unlabelled"] == 120
    gone = drawn(counts, unlabelled="leave_out")
    assert all(len(one.labels) == 2 for one in gone.samples)
    assert gone.figures["axes"]["ability"]["unlabelled"] == 60


def test_a_sample_of_two_domains_counts_for_both() -> None:
    both = [
        sample(number, "Cars", "Naming").model_copy(
            update={"labels": [*sample(0, "Cars", "Naming").labels, *sample(0, "Food", None).labels]}
        )
        for number in range(100, 140)
    ]
    section = BalanceSection(samples=100)
    found = balance([*mix({("Cars", "Naming"): 60, ("Food", "Naming"): 20}), *both], section, KNOWN)
    rows = {row["label"]: row["after"] for row in found.figures["axes"]["domain"]["labels"]}
    assert rows == pytest.approx({"Cars": 50, "Food": 50}, abs=1)


def test_samples_that_count_by_parts_are_scarce_sooner() -> None:
    """Ten samples of Cars and Food reach 25 of each at five times each, whatever their number says."""

    def two(first: int, last: int) -> list[Sample]:
        some = [sample(i, "Cars", "Naming") for i in range(first, last)]
        return [one.model_copy(update={"labels": [*one.labels, Label(axis="domain", l1="Food")]}) for one in some]

    both = two(0, 10)
    cars = [sample(1000 + i, "Cars", "Naming") for i in range(60)]
    section = BalanceSection(samples=80, domain={"Cars": 0.5, "Food": 0.5}, ability="as_is", max_repeat=5)
    found = balance([*both, *cars], section, KNOWN)
    (short,) = (one for one in found.shortfalls if one.label == "Food")
    assert (short.have, short.volume, short.target, short.scarce) == (10, 5.0, 40, True)
    (wish,) = feedback([*both, *cars], found.shortfalls, 5).wishes
    reach = round(10 * (1 + wish.weight))
    more = two(10, reach)
    again = balance([*both, *more, *cars], section, KNOWN)
    assert not [one for one in again.shortfalls if one.label == "Food" and one.scarce]


def test_a_set_that_would_be_empty_is_refused_with_the_reason() -> None:
    apart: dict[tuple[str | None, str | None], int] = {("Cars", None): 3, (None, "Naming"): 3}
    for options in ({"domain": {"Cars": 1.0}, "ability": {"Naming": 1.0}}, {}):
        with pytest.raises(UserError, match="unlabelled: leave_out leaves nothing: no sample has labels on both axes"):
            drawn(apart, unlabelled="leave_out", **options)
    with pytest.raises(
        UserError, match=r"set is empty: no sample has a label that admission.balance.domain gives .*Food"
    ):
        drawn({("Cars", "Naming"): 5}, domain={"Food": 1.0})
    for unlabelled in ("as_is", "leave_out"):
        with pytest.raises(UserError, match=r"balance.ability: no sample has a label of the axis ability"):
            drawn({("Cars", None): 5}, ability={"Naming": 1.0}, unlabelled=unlabelled)


def test_second_level_labels_and_other_splits() -> None:
    samples = mix({("Cars ~ Lights", "Naming"): 90, ("Cars ~ Signs", "Naming"): 10})
    samples += [sample(900, "Cars ~ Signs", "Naming", split="val")]
    found = balance(samples, BalanceSection(samples=40, level="l2", max_repeat=5), KNOWN)
    level = Counter(one.labels[0].l2 for one in found.samples if one.split == "train")
    assert level == {"Lights": 20, "Signs": 20}
    assert found.samples[-1].id == "s900"
    assert found.counts[-1] == 1


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.integers(0, 60), min_size=6, max_size=6).filter(sum),
    st.integers(1, 300),
    st.integers(1, 4),
    st.integers(0, 9),
)
def test_the_draw_is_exact_to_one_by_cell(sizes: list[int], total: int, most: int, seed: int) -> None:
    pairs = [(d, a) for d in ("Cars", "Food") for a in ("Naming", "Counting", "Reading")]
    samples = mix(dict(zip(pairs, sizes, strict=True)))
    found = balance(samples, BalanceSection(samples=total, max_repeat=most), KNOWN, seed)
    assert max(found.counts) <= most
    assert sum(found.counts) <= total + 1
    by: dict[tuple[str, ...], list[int]] = {}
    for one, count in zip(samples, found.counts, strict=True):
        by.setdefault(tuple(label.l1 for label in one.labels), []).append(count)
    assert all(max(counts) - min(counts) <= 1 for counts in by.values())  # nobody of a cell is taken twice as often
    again = balance(samples, BalanceSection(samples=total, max_repeat=most), KNOWN, seed)
    assert again.counts == found.counts


def test_labels_and_shares_that_are_wrong_are_named() -> None:
    with pytest.raises(
        UserError, match="sample s0: the domain label 'Crs' is not in the label tree; did you mean 'Cars'"
    ):
        balance([sample(0, "Crs", "Naming")], BalanceSection(samples=1), KNOWN)
    with pytest.raises(UserError, match=r"balance\.domain: the label tree has no domain 'Fod'; did you mean 'Food'"):
        drawn(domain={"Cars": 0.5, "Fod": 0.5})
    with pytest.raises(UserError, match=r"'Cars ~ Lights' is an L2 label and admission\.balance\.level is l1"):
        drawn(domain={"Cars ~ Lights": 1.0})
    with pytest.raises(UserError, match="no training sample"):
        balance([sample(0, "Cars", "Naming", split="val")], BalanceSection(samples=1), KNOWN)
    with pytest.raises(UserError, match="no sample has a label of the axis ability"):
        drawn({("Cars", None): 3})


def test_a_recipe_whose_shares_do_not_sum_or_that_nothing_reads_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_text("name: t\nadmission:\n  balance:\n    samples: 10\n    domain: {Automotive: 0.6, Nature: 0.3}\n")
    with pytest.raises(
        UserError, match=r"line 5: admission\.balance\.domain: the shares sum to 0\.9; they must sum to 1"
    ):
        load(file)
    file.write_text("name: t\nadmission:\n  balance:\n    max_repeat: 2\n")
    with pytest.raises(
        UserError, match=r"line 4: admission\.balance\.max_repeat: has no effect: admission\.balance\.sam"
    ):
        load(file)
    file.write_text("name: t\nadmission:\n  balance:\n    samples: as_many\n    max_clusters: 0\n    starts: 2\n")
    with pytest.raises(UserError, match=r"balance\.starts: has no effect: admission\.balance\.max_clusters is 0"):
        load(file)
    file.write_text("name: t\nadmission:\n  balance:\n    samples: as_many\n    domain: 0.5\n    ability: as_is\n")
    assert load(file).admission.balance.domain == 0.5


def topical(first: int, count: int, path: str) -> list[Sample]:
    return [sample(number, "Food", "Naming", topics=[path]) for number in range(first, first + count)]


def test_scarce_labels_are_asked_for_by_topic(tmp_path: Path) -> None:
    samples = [
        *mix({("Cars", "Naming"): 100}),
        *topical(200, 6, "Naming ~ Symbols ~ Apples"),
        *topical(300, 2, "Naming ~ Symbols ~ Pears"),
    ]
    found = balance(samples, BalanceSection(samples=100, max_repeat=2), KNOWN)
    topics = [TopicOf("Naming ~ Symbols ~ Plums", "Food ~ Fruit", "Naming ~ Symbols"),
              TopicOf("Naming ~ Symbols ~ Lamps", "Cars ~ Lights", "Naming ~ Symbols")]  # fmt: skip
    wishes = feedback(samples, found.shortfalls, 2, topics, "2")
    wishes.write(tmp_path / "feedback.yaml")
    assert read(tmp_path / "feedback.yaml") == wishes
    told = {wish.topic: wish for wish in wishes.wishes if wish.domain == "Food"}
    # 50 wanted, each at most twice: 25 different ones on three topics, of which there are 6, 2 and none: nine each
    assert {topic: wish.weight for topic, wish in told.items()} == {
        "Naming ~ Symbols ~ Plums": 9.0, "Naming ~ Symbols ~ Pears": 3.5, "Naming ~ Symbols ~ Apples": 0.5,
    }  # fmt: skip
    assert {wish.want for wish in wishes.wishes} == {"more"}
    assert "8 different samples; 16 of 50" in told["Naming ~ Symbols ~ Pears"].reason
