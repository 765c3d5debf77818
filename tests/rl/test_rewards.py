from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from open4ov.errors import UserError
from open4ov.rl import advantage, rewards
from open4ov.rl.distance import encoders
from open4ov.sample import Sample

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "rl.json").read_text())


def test_length_golden() -> None:
    case = GOLDEN["length"]
    values = rewards.length(case["lengths"], case["length_max"], case["length_soft"])
    assert values.tolist() == pytest.approx(case["rewards"])


@pytest.mark.parametrize(("longest", "soft"), [(10, 0), (10, 11), (0, 0)])
def test_length_refuses_senseless_limits(longest: int, soft: int) -> None:
    with pytest.raises(ValueError, match="L_soft"):
        rewards.length([1], longest, soft)


def test_exact_wants_the_box() -> None:
    sample = Sample(id="s", source="t", task="reasoning", answer="7", aliases=["seven birds"])
    assert rewards.exact("3 + 4 = 7. \\boxed{7}", sample) == 1.0
    assert rewards.exact("\\boxed{Seven birds}", sample) == 1.0
    assert rewards.exact("7", sample) == 0.0
    with pytest.raises(ValueError, match="no reference"):
        rewards.exact("\\boxed{7}", sample.model_copy(update={"answer": None}))


def similar(a: str, b: str) -> bool:
    rows = encoders.ngram_embedding([a, b])
    return rewards.diversity_scores(rows, 0.4).tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    ("a", "b", "alike"),
    [
        (
            "There are 3 red and 4 blue. 3 + 4 = 7. \\boxed{7}",
            "There are 3 red and 4 blue. 3 + 4 = 7. \\boxed{7}",
            True,
        ),
        (
            "There are 3 red and 4 blue. 3 + 4 = 7. \\boxed{7}",
            "There are 3 red and 5 blue. 3 + 5 = 8. \\boxed{8}",
            True,
        ),
        ("There are 3 red and 4 blue. 3 + 4 = 7. \\boxed{7}", "Count them all: 1, 2, 3, 4, 5, 6, 7. \\boxed{7}", False),
        ("左边有三个红色的圆，右边有四个。", "一共七个圆。", False),
        ("", "", True),
        ("", "seven", False),
    ],
)
def test_embedded_encoder_tells_wordings_apart(a: str, b: str, alike: bool) -> None:
    assert similar(a, b) is alike


@dataclass(frozen=True)
class Said:
    text: str
    finish_reason: str = "stop"


SAMPLE = Sample(id="s7", source="t", task="reasoning", answer="7")


def test_a_group_is_graded_and_what_degenerated_is_wrong_whatever_its_box_says() -> None:
    said = [Said("\\boxed{7}"), Said("7"), Said("\\boxed{7}", "repetition"), Said("\\boxed{7}", "garbled")]
    assert rewards.graded(rewards.exact, "r:exact", said, SAMPLE, binary=True).tolist() == [1, 0, 0, 0]
    assert rewards.length_channel(said, torch.tensor([2, 10, 2, 2]), 8, 4).tolist() == [0, -1, -1, -1]
    assert rewards.graded(lambda *_: True, "r", [Said(" \n")], SAMPLE).tolist() == [0]
    assert rewards.graded(lambda *_: True, "r", said[:1], SAMPLE, binary=True).tolist() == [1]
    assert rewards.graded(lambda *_: 0.25, "r", said[:1], SAMPLE).tolist() == [0.25]
    assert rewards.graded(lambda *_: torch.tensor(1.0), "r", said[:1], SAMPLE).tolist() == [1]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (float("nan"), "nan"), (float("inf"), "inf"), (-0.5, "-0.5"), (1.5, "1.5"), (None, "None"), ("1", "'1'"),
        (torch.zeros(2), "tensor"),
    ],
)  # fmt: skip
def test_a_reward_that_is_none_names_function_sample_and_value(given: object, told: str) -> None:
    with pytest.raises(UserError, match=rf"rl\.reward 'my\.module:fn' gave .*{told}.* sample s7.*from 0 to 1"):
        rewards.graded(lambda *_: given, "my.module:fn", [Said("x")], SAMPLE)  # pyright: ignore


def test_a_reward_that_raises_and_one_that_pass_at_k_cannot_use() -> None:
    def broken(response: str, sample: Sample) -> float:
        raise KeyError("no such unit")

    with pytest.raises(UserError, match=r"'m:broken' failed on a response to sample s7: KeyError: 'no such unit'"):
        rewards.graded(broken, "m:broken", [Said("x")], SAMPLE)
    with pytest.raises(UserError, match=r"gave 0\.5 for a response to sample s7: Pass@k needs rewards of 0 or 1"):
        rewards.graded(lambda *_: 0.5, "m:half", [Said("x")], SAMPLE, binary=True)


groups = st.integers(2, 9).flatmap(
    lambda n: st.tuples(
        st.lists(st.integers(0, 1), min_size=n, max_size=n),
        st.lists(st.floats(-1, 0), min_size=n, max_size=n),
        st.lists(st.floats(0, 1), min_size=n, max_size=n),
        st.lists(st.booleans(), min_size=n, max_size=n),
        st.integers(1, n),
        st.floats(0, 2),
    )
)


@given(groups)
def test_what_combining_promises(drawn: tuple[list[int], list[float], list[float], list[bool], int, float]) -> None:
    """Sums of zero, no gain for what degenerated, and length changes the order only where it exceeds the gap."""
    correct, lengths, diverse, lost, k, weight = drawn
    right = [bool(c) and not d for c, d in zip(correct, lost, strict=True)]
    known = [-1.0 if d else x for d, x in zip(lost, lengths, strict=True)]  # as `graded` and `length_channel` have it
    c, lengths_, div = (torch.tensor(channel, dtype=torch.float64) for channel in (right, known, diverse))
    by_k = rewards.combine(c, lengths_, pass_k=k, length_weight=weight).tolist()
    by_diversity = rewards.combine(c, lengths_, diversity=div, length_weight=weight).tolist()
    for found in (by_k, by_diversity):
        assert sum(found) == pytest.approx(0, abs=1e-9)
        assert all(gain <= 1e-12 for gain, d in zip(found, lost, strict=True) if d)
    for i in range(len(right)):
        for j in range(len(right)):
            if right[i] and not right[j]:
                moved = weight * (known[j] - known[i])
                gap = advantage.gap(len(right), sum(right), k)
                assert by_k[i] - by_k[j] == pytest.approx(gap - moved, abs=1e-9)
                assert by_diversity[i] - by_diversity[j] == pytest.approx(max(diverse[i], 0.1) - moved, abs=1e-9)


def test_combining_golden() -> None:
    """Worked out by hand: N = 8, k = 4, two right, of which one is too long by half."""
    correct = torch.tensor([1.0, 1, 0, 0, 0, 0, 0, 0])
    lengths = torch.tensor([-0.5, 0, 0, 0, 0, 0, 0, 0])
    found = rewards.combine(correct, lengths, pass_k=4, length_weight=0.2)
    right, wrong, mean = 0.522233, -0.174078, -0.0625
    wanted = [right + 0.2 * (-0.5 - mean), right - 0.2 * mean, *[wrong - 0.2 * mean] * 6]
    assert found.tolist() == pytest.approx(wanted, abs=1e-6)
    case = GOLDEN["diversity"][0]
    scores, rewarded = torch.tensor(case["scores"]), torch.tensor(case["rewards"])
    alone = rewards.combine(rewarded, torch.zeros(4), diversity=scores, length_weight=0.2)
    assert alone.tolist() == pytest.approx(case["advantages"], abs=1e-6)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"diversity": torch.zeros(2)}, "either pass_k or diversity"),
        ({"pass_k": None}, "either pass_k or diversity"),
        ({"length_rewards": torch.zeros(3)}, r"shape \[3\]"),
        ({"length_rewards": torch.tensor([0.0, float("nan")])}, "length_rewards must lie"),
        ({"length_rewards": torch.tensor([0.0, 0.5])}, "length_rewards must lie"),
        ({"correct": torch.tensor([0.0, float("nan")])}, "correct must lie"),
        ({"correct": torch.tensor([0.0, 0.5])}, "pass_at_k needs rewards of 0 or 1"),
        ({"pass_k": 3}, "k from 1 to 2"),
        ({"pass_k": None, "diversity": torch.tensor([0.0, 2.0])}, "diversity must lie"),
    ],
)
def test_combining_refuses_what_is_no_channel(changes: dict[str, object], told: str) -> None:
    usual = {"correct": torch.tensor([0.0, 1.0]), "length_rewards": torch.zeros(2), "pass_k": 1, "length_weight": 1.0}
    with pytest.raises(ValueError, match=told):
        rewards.combine(**(usual | changes))  # pyright: ignore


def test_embeddings_are_unit_rows() -> None:
    rows = encoders.ngram_embedding(["one two", "", "红灯", "..."])
    torch.testing.assert_close(rows.norm(dim=-1), torch.ones(4, dtype=torch.float64))
