from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from open4ov.rl import rewards
from open4ov.sample import Sample

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "advantages.json").read_text())


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
    rows = rewards.ngram_embedding([a, b])
    return rewards.diversity_scores(rows).tolist() == [0.0, 0.0]


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


def test_embeddings_are_unit_rows() -> None:
    rows = rewards.ngram_embedding(["one two", "", "红灯", "..."])
    torch.testing.assert_close(rows.norm(dim=-1), torch.ones(4, dtype=torch.float64))
