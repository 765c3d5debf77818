"""The hybrid reward (paper §4.2.2): correctness (eq. 1), diversity (eq. 7-8) and length (eq. 10), and how the three
become one advantage.

The channels stay apart until `combine`, the one place where they meet. The paper leaves open how; here, for response i
of a group:

    A_i = C_i + w (L_i - mean L)

C is the Pass@k advantage of the correctness c (`advantage.pass_at_k`) while a run explores, and after it the advantage
(eq. 9) of c_i * max(Div_i, floor) (eq. 8). L is the length reward (eq. 10), w `rl.length_weight`. A degenerate response
(stopped for looping or noise) has c_i = 0, whatever stands in its box, and L_i = -1. What follows, and is tested:

- The A_i of a group sum to zero, and a degenerate response never has A_i > 0.
- L lies in [-1, 0], so length moves two responses by w at most against each other. A right response stays above a
  wrong one unless w (L_wrong - L_right) exceeds the gap between right and wrong: q / s for Pass@k (`advantage.gap`),
  max(Div_right, floor) for diversity.
- Where all are equally right, length alone decides; where all are equally long, it says nothing.

Another reward is used by naming a function `(response: str, sample: Sample) -> float` in `rl.reward`; what embeds
responses stands in `encoders.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import torch
from torch import Tensor

from open4ov import answers
from open4ov.answers_symbolic import WORKERS
from open4ov.engine.degeneration import REASONS
from open4ov.errors import UserError
from open4ov.rl import advantage
from open4ov.sample import Sample

Reward = Callable[[str, Sample], float]
"""RL's reward: (response, sample) -> how right it is, from 0 for wrong to 1"""


class Said(Protocol):
    """What a reward reads of a response (`engine.Completion`)."""

    @property
    def text(self) -> str: ...

    @property
    def finish_reason(self) -> str: ...


def exact(response: str, sample: Sample) -> float:
    """Pass@1 reward (eq. 1): 1 if the response's last \\boxed{} holds the sample's answer or an alias, else 0.

    Raises ValueError for a sample without a reference answer.
    """
    if sample.answer is None:
        raise ValueError(f"sample {sample.id} has no reference answer to reward with")
    return float(answers.correct(response, sample.answer, sample.aliases))


def graded(reward: Reward, name: str, responses: Sequence[Said], sample: Sample, binary: bool = False) -> Tensor:
    """The correctness channel of one group, [N]; see `graded_groups`."""
    return graded_groups(reward, name, [responses], [sample], binary)[0]


def graded_groups(
    reward: Reward, name: str, groups: Sequence[Sequence[Said]], samples: Sequence[Sample], binary: bool = False
) -> list[Tensor]:
    """The correctness channel of each group, [N] float64 in [0, 1]; 0 for degenerate responses and for those without a
    word, which nobody is asked of.

    name: the reward as the recipe names it. binary: whether only 0 and 1 will do, as for Pass@k. Symbolic checks of all
    groups run side by side. Raises UserError for a reward that raises, is no number, not finite or out of range; it
    names the function, the sample and the value.
    """

    def value(response: Said, sample: Sample) -> float:
        if response.finish_reason in REASONS or not response.text.strip():
            return 0.0
        try:
            said = reward(response.text, sample)
        except Exception as error:
            told = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            raise UserError(f"rl.reward {name!r} failed on a response to sample {sample.id}: {told}") from error
        return _in_range(said, name, sample, binary)

    asked = [(response, sample) for group, sample in zip(groups, samples, strict=True) for response in group]
    if reward is exact and WORKERS > 1:  # symbolic checks side by side; who knows about threads in another's function
        with ThreadPoolExecutor(WORKERS) as threads:
            values = list(threads.map(value, *zip(*asked, strict=True))) if asked else []
    else:
        values = [value(*one) for one in asked]
    return list(torch.tensor(values, dtype=torch.float64).split([len(group) for group in groups]))


def length_channel(responses: Sequence[Said], lengths: Tensor, length_max: int, length_soft: int) -> Tensor:
    """The length channel of a group, [N]: `length` of its lengths in tokens [N], and -1 for degenerate responses."""
    lost = torch.tensor([response.finish_reason in REASONS for response in responses], dtype=torch.bool)
    return length(lengths, length_max, length_soft).masked_fill(lost, -1.0)


def combine(
    correct: Tensor,
    length_rewards: Tensor,
    *,
    length_weight: float,
    pass_k: int | None = None,
    diversity: Tensor | None = None,
    floor: float = 0.1,
) -> Tensor:
    """The advantages of one group, [N] float64, by the formula at the top of the file.

    correct [N] in [0, 1] (`graded`); length_rewards [N] in [-1, 0] (`length_channel`). Exactly one of `pass_k`, the k
    of Pass@k, which wants rewards of 0 and 1, and `diversity`, the scores Div [N] of eq. 7 (`diversity_scores`).

    Raises ValueError for both or none of the two, shapes that differ, and values that are not finite or out of range.
    """
    if (pass_k is None) == (diversity is None):
        raise ValueError("combine needs either pass_k or diversity")
    channels = {"correct": (correct, 0.0, 1.0), "length_rewards": (length_rewards, -1.0, 0.0)}
    if diversity is not None:
        channels["diversity"] = (diversity, 0.0, 1.0)
    for name, (values, low, high) in channels.items():
        if values.shape != correct.shape:
            raise ValueError(f"combine: {name} has shape {list(values.shape)}, correct {list(correct.shape)}")
        if not bool(((values >= low) & (values <= high)).all()):
            raise ValueError(f"combine: {name} must lie in [{low:g}, {high:g}], got {values.tolist()}")
    c, lengths = correct.to(torch.float64), length_rewards.to(torch.float64)
    if diversity is None:
        assert pass_k is not None
        main = advantage.pass_at_k(c, pass_k)
    else:
        main = advantage.diversity(c * diversity.to(torch.float64).clamp(min=floor))
    return main + advantage.centred_length(lengths, length_weight) if length_weight else main


def length(lengths: Tensor | Sequence[int], length_max: int, length_soft: int) -> Tensor:
    """Soft overlong reward (eq. 10): 0 up to L_max - L_soft tokens, falling linearly to -1 at L_max, -1 beyond.

    lengths: any shape, response lengths in tokens. Gives the same shape in float64.
    Raises ValueError unless 0 < L_soft <= L_max.
    """
    if not 0 < length_soft <= length_max:
        raise ValueError(f"length reward needs 0 < L_soft <= L_max, got L_soft={length_soft}, L_max={length_max}")
    tokens = torch.as_tensor(lengths, dtype=torch.float64)
    return ((length_max - length_soft - tokens) / length_soft).clamp(-1, 0) + 0.0


def diversity_scores(embeddings: Tensor, threshold: float, clusters: bool = False) -> Tensor:
    """Div of each of N responses (eq. 7): the mean distance to the N - 1 others; zeros for a single response.

    The distance is 1 if the cosine distance of two responses is over `threshold`, else 0 (the paper decides similarity
    by a threshold; DARLING by a trained classifier). With `clusters` responses that a chain of similar ones joins are
    all similar, as in DARLING: (n - |own cluster|) / (n - 1). The two are equal where similarity is transitive. The
    group's wrong responses count as neighbours too.
    """
    count = len(embeddings)
    if count < 2:
        return torch.zeros(count, dtype=torch.float64)
    rows = embeddings.to(torch.float64)
    near = 1 - rows @ rows.T <= threshold
    near.fill_diagonal_(True)
    if clusters:
        for _ in range(max(1, math.ceil(math.log2(count)))):  # chains double in length with each squaring
            near = near.to(torch.float64) @ near.to(torch.float64) > 0
    return (~near).to(torch.float64).sum(-1) / (count - 1)


def _in_range(said: object, name: str, sample: Sample, binary: bool) -> float:
    try:
        value = float(said)  # pyright: ignore[reportArgumentType]
    except (TypeError, ValueError):
        value = math.nan
    if isinstance(said, str) or not 0 <= value <= 1:
        raise UserError(
            f"rl.reward {name!r} gave {said!r} for a response to sample {sample.id}: a reward is a number from 0 to 1"
        )
    if binary and value not in (0, 1):
        raise UserError(
            f"rl.reward {name!r} gave {value:g} for a response to sample {sample.id}: Pass@k needs rewards "
            "of 0 or 1; or set rl.pass_k_share to 0"
        )
    return value
