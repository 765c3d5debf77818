"""What answers took: tokens and money of one answer, and the account of all answers that a stage used.

An answer found among the kept ones took what it took when it was given, so the figures are the same whether a run went
through at once or was taken up again. What was really sent and paid in this run is in the book (`budget.py`).
"""

from __future__ import annotations

import threading
from dataclasses import asdict, dataclass, replace
from typing import Any

from open4ov.recipe_providers import PriceSection
from open4ov.store import Seen


@dataclass(frozen=True)
class Took:
    """Tokens of one answer, repairs included. `estimated`: the endpoint did not count them. `price`: None where the
    recipe names none. `kept`: it had been given before, and was found again. `question`: what tells equal questions,
    whose answer is paid for once; empty where each is paid for. `again`: such a question stood somewhere before."""

    input: int
    output: int
    estimated: bool = False
    price: PriceSection | None = None
    kept: bool = False
    question: str = ""
    again: bool = False

    @property
    def money(self) -> float | None:
        """In the currency of the price; None without one."""
        return _money(self.input, self.output, self.price)


@dataclass
class Total:
    """Answers, usable or not, and what they took together. `estimated` and `unpriced`: how many of them were not
    counted by their endpoint, and have no price; `money` is of the others."""

    answers: int = 0
    input: int = 0
    output: int = 0
    estimated: int = 0
    unpriced: int = 0
    money: float = 0.0

    def __add__(self, other: Total) -> Total:
        return Total(*(a + b for a, b in zip(asdict(self).values(), asdict(other).values(), strict=True)))

    def figures(self) -> dict[str, Any]:
        """As a report has it: `money` is None where nothing has a price."""
        return {**asdict(self), "money": None if self.unpriced == self.answers else self.money}


class Account:
    """What the answers of each step took. The order in which they come changes no figure; of equal questions the first
    counts."""

    def __init__(self) -> None:
        self._lock, self._seen = threading.Lock(), Seen()
        self._rows: dict[tuple[str, tuple[float, float] | None], list[int]] = {}
        self.missed: dict[str, dict[str, int]] = {}
        """Step → kind of fault → how many questions got no usable answer for it"""

    def add(self, stage: str, took: Took) -> Took:
        """Takes note of an answer; gives what is left to bear, which is nothing for a question that stood before."""
        price = (took.price.input, took.price.output) if took.price else None
        with self._lock:
            if took.question and not self._seen.add(took.question):
                return replace(took, input=0, output=0, again=True)
            row = self._rows.setdefault((stage, price), [0, 0, 0, 0])
            for place, more in enumerate((1, took.input, took.output, int(took.estimated))):
                row[place] += more
        return took

    def miss(self, stage: str, kind: str) -> None:
        """Takes note of a question without a usable answer; of equal ones each counts."""
        with self._lock:
            kinds = self.missed.setdefault(stage, {})
            kinds[kind] = kinds.get(kind, 0) + 1

    def rows(self) -> list[Any]:
        """What was added, to be joined elsewhere: [step, [price of input, of output] or None, counts] each."""
        with self._lock:
            return [[stage, price, [*row]] for (stage, price), row in self._rows.items()]

    def join(self, rows: list[Any]) -> None:
        """Adds the `rows` of another account. Equal questions of both are not looked for."""
        with self._lock:
            for stage, price, counts in rows:
                row = self._rows.setdefault((stage, tuple(price) if price else None), [0, 0, 0, 0])
                for place, more in enumerate(counts):
                    row[place] += more

    def totals(self) -> dict[str, Total]:
        """By step, in the order of their names."""
        found: dict[str, Total] = {}
        with self._lock:
            rows = sorted(self._rows.items(), key=lambda item: (item[0][0], item[0][1] or (-1.0, -1.0)))
        for (stage, price), (answers, read, written, estimated) in rows:
            named = PriceSection(input=price[0], output=price[1]) if price else None
            money = _money(read, written, named)
            one = Total(answers, read, written, estimated, 0 if price else answers, money or 0.0)
            found[stage] = found.get(stage, Total()) + one
        return found


def _money(read: int, written: int, price: PriceSection | None) -> float | None:
    return (read * price.input + written * price.output) / 1e6 if price else None
