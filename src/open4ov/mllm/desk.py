"""What the endpoints of a run share: kept answers, the book of costs, counts, and which hosts are allowed.

In the run's folder: `asked/answers.sqlite` (or in the folder of `data.cache`, which several runs may share) and
`asked/spending.sqlite`.
"""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path
from typing import Any

from open4ov.errors import UserError
from open4ov.mllm.ask import ProviderError
from open4ov.mllm.budget import Budget, Usage
from open4ov.mllm.cache import AnswerCache
from open4ov.mllm.concurrency import Gate
from open4ov.mllm.local import Local
from open4ov.mllm.pause import Pause
from open4ov.recipe import DataSection
from open4ov.recipe_providers import PriceSection

FOLDER = "asked"


def kept_in(section: DataSection, place: Path | None) -> Path | None:
    """The folder of kept answers of a run whose folder is `place`; None: they are forgotten."""
    return Path(section.cache) if section.cache else place / FOLDER if place else None


def book_of(place: Path) -> Path:
    """The file that says what a run has spent."""
    return place / FOLDER / "spending.sqlite"


class Tally:
    """Counts by role, from many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[str, Counter[str]] = {}
        self._faults: dict[str, Counter[str]] = {}
        self._retried: dict[str, Counter[str]] = {}
        self._money: Counter[str] = Counter()

    def answered(self, role: str, usage: Usage, price: PriceSection | None, *, kept: bool) -> None:
        """An answer that is used, whenever it was paid for."""
        with self._lock:
            counts = self._counts.setdefault(role, Counter())
            counts.update(answers=1, kept=int(kept), input=usage.input, output=usage.output, estimated=usage.estimated)
            self._money[role] += usage.money(price)  # pyright: ignore[reportArgumentType]

    def sent(self, role: str, repair: bool) -> None:
        with self._lock:
            self._counts.setdefault(role, Counter()).update(requests=1, repairs=int(repair))

    def unseen(self, role: str, usage: Usage) -> None:
        """A request whose answer did not come, and which is booked as if it had been as long as allowed."""
        if usage.output:
            with self._lock:
                self._counts.setdefault(role, Counter()).update(unseen=1, unseen_output=usage.output)

    def retried(self, role: str, kind: str) -> None:
        """A request failed, and will be tried again."""
        with self._lock:
            self._retried.setdefault(role, Counter())[kind] += 1

    def fault(self, role: str, kind: str) -> None:
        """A question got no usable answer."""
        with self._lock:
            self._faults.setdefault(role, Counter())[kind] += 1

    def report(self) -> dict[str, Any]:
        with self._lock:
            return {
                role: {
                    **{
                        name: self._counts.get(role, Counter())[name]
                        for name in (
                            "answers",
                            "kept",
                            "requests",
                            "repairs",
                            "input",
                            "output",
                            "estimated",
                            "unseen",
                            "unseen_output",
                        )
                    },
                    "money": float(self._money[role]),
                    "retried": dict(sorted(self._retried.get(role, Counter()).items())),
                    "faults": dict(sorted(self._faults.get(role, Counter()).items())),
                }
                for role in sorted({*self._counts, *self._faults, *self._retried})
            }


class Desk:
    """Without arguments: nothing is kept, nothing limited, every host allowed."""

    def __init__(
        self, cache: AnswerCache | None = None, budget: Budget | None = None, local: Local | None = None
    ) -> None:
        self.cache, self.local = cache, local
        self.budget = budget or Budget()
        self.tally = Tally()
        self._pauses: dict[str, Pause] = {}
        self._gates: list[Gate] = []

    @staticmethod
    def open(section: DataSection, place: Path | None) -> Desk:
        """The desk of a recipe; `place` is the run's folder. Raises UserError when files cannot be used."""
        kept = kept_in(section, place)
        try:
            return Desk(
                AnswerCache(kept) if kept else None,
                Budget(section.budget, book_of(place) if place else None),
                Local(section.local_hosts) if section.local_only else None,
            )
        except (PermissionError, FileExistsError, NotADirectoryError) as error:
            raise UserError(f"data.cache: {error.filename}: cannot be written: {error.strerror}") from None

    def gate(self, url: str, most: int) -> Gate:
        """The way to an endpoint for one of its providers. All of them share its pauses."""
        self._gates.append(Gate(most, self._pauses.setdefault(url, Pause())))
        return self._gates[-1]

    def stop(self) -> None:
        """Nothing is sent any more."""
        for gate in self._gates:
            gate.close(
                ProviderError("stopped: nothing more is asked; a new start goes on with the answers that are kept")
            )

    def report(self) -> dict[str, Any]:
        """`roles`: what this start of the run asked and used; `spent`: all that the run sent, over all its starts."""
        return {"roles": self.tally.report(), "spent": self.budget.report()}
