"""A model as the judge of pairs: the role `versus` of a recipe's providers, cached and bound by its budget.

It sees what people see: the question, the pictures, two answers. With `both_orders` each pair is asked about twice, the
answers the other way round the second time; a judge that then names the other side was swayed by the place, and its
verdict is a tie.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from open4ov.errors import UserError
from open4ov.evaluate.versus.pairs import Pair
from open4ov.evaluate.versus.verdicts import Choice, Judge, Verdict
from open4ov.mllm import Asker, Picture, Prompt, Request
from open4ov.mllm.answers import Preference
from open4ov.mllm.ask import AnswerError
from open4ov.recipe import DataSection
from open4ov.store import ImageError, ImageStore

ROLE = "versus"
BATCH = 32
"""Pairs that are asked about, and whose verdicts are written, together"""
_SIDES: dict[str, Choice] = {"first": "left", "second": "right", "tie": "tie"}
_MIRRORED: dict[str, Choice] = {"first": "right", "second": "left", "tie": "tie"}


def judge(
    pairs: Sequence[Pair],
    out: Path,
    said: Judge,
    section: DataSection,
    *,
    both_orders: bool,
    tell: Callable[[str], None],
) -> list[str]:
    """Asks about the pairs that `said` has not decided, and keeps the verdicts; gives the faults of those that got no
    usable answer, which the same command asks about again. Raises UserError for providers that cannot play the role."""
    asker = Asker(section, place=out)
    asker.require_model(ROLE, "judge in the page (leave the judge out)")
    store = ImageStore(out / "image-store")
    still = [pair for pair in pairs if pair.id not in said.verdicts and not pair.identical]
    faults: list[str] = []
    for start in range(0, len(still), BATCH):
        part = still[start : start + BATCH]
        tell(f"pairs {start} to {start + len(part)} of {len(still)} are judged")
        try:
            requests = [request(pair, store, mirrored) for pair in part for mirrored in _orders(both_orders)]
            answers = asker.ask_many(requests)
        except ImageError as error:
            raise UserError(str(error)) from None
        width = len(requests) // len(part)
        for number, pair in enumerate(part):
            given = answers[number * width : (number + 1) * width]
            fault = next((answer for answer in given if isinstance(answer, AnswerError)), None)
            if fault is not None:
                faults.append(f"{pair.id}: {fault}")
            else:
                said.decide(_verdict(pair, given))  # pyright: ignore[reportArgumentType]
    return faults


def request(pair: Pair, store: ImageStore, mirrored: bool = False) -> Request:
    """What the role is asked about a pair."""
    first, second = (pair.right, pair.left) if mirrored else (pair.left, pair.right)
    values = {
        "question": pair.question,
        "earlier": pair.earlier,
        "first": first,
        "second": second,
        "pictures": len(pair.pictures),
    }
    pictures = [
        Picture(sha, lambda sha=sha: store.get(sha), None, lambda sha=sha: store.png(sha)) for sha in pair.pictures
    ]
    return Request(ROLE, Prompt("versus", values), pictures, Preference)


def _orders(both: bool) -> tuple[bool, ...]:
    return (False, True) if both else (False,)


def _verdict(pair: Pair, answers: Sequence[dict[str, Any]]) -> Verdict:
    choices: list[Choice] = [
        table[answer["choice"]] for table, answer in zip((_SIDES, _MIRRORED), answers, strict=False)
    ]
    reason = " / ".join(str(answer["reason"]) for answer in answers)
    choice: Choice = choices[0] if len(set(choices)) == 1 else "tie"
    return Verdict(pair=pair.id, choice=choice, reason=reason)
