"""Sets that a judge scores: through an OpenAI-compatible endpoint, answers kept, costs bounded (`mllm/`).

Without a judge they are not run. A response that the judge gives no usable verdict on has no score; it is never
compared letter by letter instead.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from open4ov.evaluate.answer_book import Entry
from open4ov.evaluate.choices import answer_part
from open4ov.evaluate.item import Item
from open4ov.evaluate.scoring import Score
from open4ov.evaluate.tables import listed
from open4ov.mllm.answers import Grade, Rubric
from open4ov.mllm.ask import AnswerError, Asker, Prompt, ProviderError, Request
from open4ov.mllm.asked import Picture
from open4ov.recipe import DataSection
from open4ov.recipe_providers import BudgetSection, ProviderSection

ROLE = "evaluation"
AT_ONCE = 64
"""Responses that are handed to the judge together: what is judged when its budget is used up stays"""


@dataclass
class Verdicts:
    """Scores by item and number of the response. `unjudged`: why each of the others has none. `stopped`: why the judge
    was not asked any further."""

    scores: dict[tuple[str, int], Score]
    unjudged: dict[tuple[str, int], str]
    stopped: str = ""


class SetJudge:
    """The judge of an evaluation. `place`: the folder that keeps its answers and what they cost."""

    def __init__(self, settings: ProviderSection, budget: BudgetSection, place: Path) -> None:
        section = DataSection(providers={"judge": settings}, roles={"default": "judge"}, budget=budget)
        self._asker = Asker(section, place=place)
        self.identity = f"{settings.model} at {settings.base_url or 'api.openai.com'}"

    def verdicts(
        self, judged: Sequence[tuple[Entry, Item]], progress: Callable[[int, int], None] | None = None
    ) -> Verdicts:
        """A score of each response, from 0 to 1, in the order of the entries."""
        asked = [
            ((entry.id, number), request)
            for entry, item in judged
            for number, request in enumerate(_requests(entry, item))
        ]
        by_id = {entry.id: entry for entry, _ in judged}
        found = Verdicts({}, {})
        for start in range(0, len(asked), AT_ONCE):
            part = asked[start : start + AT_ONCE]
            try:
                answers = self._asker.ask_many([request for _, request in part])
            except ProviderError as error:
                found.stopped = str(error)
                found.unjudged |= {name: found.stopped for name, _ in asked[start:]}
                break
            for (name, _), answer in zip(part, answers, strict=True):
                if isinstance(answer, AnswerError):
                    found.unjudged[name] = str(answer)
                elif "scores" in answer:
                    found.scores[name] = _weighted(answer, by_id[name[0]])
                elif answer["score"] is None:
                    found.unjudged[name] = f"the judge cannot tell: {answer['reason']}"
                else:
                    found.scores[name] = Score(float(answer["score"]), answer["reason"])
            if progress is not None:
                progress(min(start + AT_ONCE, len(asked)), len(asked))
        return found

    def report(self) -> dict[str, Any]:
        """What was asked, what came from the kept answers, and what it cost."""
        return {"judge": self.identity, **self._asker.report()}


def parts_of(entry: Entry) -> list[str]:
    """The parts of a rubric's instruction; empty for a question with a right answer."""
    return [str(one) for one in listed(entry.details.get("components")) or []]


def _requests(entry: Entry, item: Item) -> list[Request]:
    pictures: Sequence[Picture] = item.images
    parts = parts_of(entry)
    found: list[Request] = []
    for response in entry.responses:
        values: dict[str, Any] = {"question": entry.prompt, "response": answer_part(response), "images": len(pictures)}
        if parts:

            def fits(answer: dict[str, Any], count: int = len(parts)) -> str | None:
                scores = answer["scores"]
                if len(scores) != count:
                    return f"{len(scores)} scores for {count} parts"
                return None if all(0 <= one <= 1 for one in scores) else "a score lies outside of 0 to 1"

            prompt = Prompt("evaluation_rubric", {**values, "parts": parts})
            found.append(Request(ROLE, prompt, pictures, Rubric, fits))
        else:
            prompt = Prompt("evaluation", {**values, "answer": " / ".join(entry.answers)})
            found.append(Request(ROLE, prompt, pictures, Grade))
    return found


def _weighted(answer: dict[str, Any], entry: Entry) -> Score:
    """The mean of the parts' scores, by the file's weights where it has as many."""
    scores: list[float] = answer["scores"]
    given = listed(entry.details.get("component_weight")) or []
    weights = [float(one) for one in given] if len(given) == len(scores) else [1.0] * len(scores)
    return Score(sum(w * s for w, s in zip(weights, scores, strict=True)) / sum(weights), answer["reason"])
