"""Rapid assessment of new data: a short SFT of the base on a small batch of them, judged on held-out questions
(paper §3.2.2).

    a training on the batch, blended with general replay → base and trained model answer the same questions, those of
    the vertical and general ones → two criteria and the language, as paired tests (criteria.py) → admit, reject, or
    undecided: another round with new questions (and another seed of the training), up to the cap

Whatever a round made lies in its folder of `scratch`: a kill repeats no training and no list of answers that is done.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, cast

from open4ov.admission.criteria import Bar, Verdict, judge, thresholds
from open4ov.errors import UserError
from open4ov.recipe_assess import AssessSection
from open4ov.run_dir import read_json
from open4ov.sample import Sample, content_id
from open4ov.store import write_json
from open4ov.verifier import Verdict as Judged

Progress = Callable[[str, float, float], None]
PROBES = ("vertical", "general", "own")


class Train(Protocol):
    """Trains the base on the batch, blended with replay, for `admission.assess.tokens` tokens."""

    def __call__(self, seed: int, folder: Path) -> Path:
        """Works in `folder`, where it goes on after a kill, and gives the folder of the trained model."""
        ...


class Ask(Protocol):
    """Lets a model answer."""

    def __call__(self, model: Path, questions: Sequence[Sample], what: str) -> list[str]:
        """The model's answer to the last question of each sample. `what`: for the progress."""
        ...

    def identity(self, model: Path) -> str:
        """All that answers depend on, beside the questions: the model's files and how it is asked."""
        ...


@dataclass(frozen=True)
class Asked:
    """One held-out question and what both models said; `language` is whether they said it in the question's.
    `unjudged`: why the verifier did not say of one of them whether it is right; such a question counts for the language
    alone."""

    id: str
    probe: str
    round: int
    before: str
    after: str
    right: tuple[bool, bool]
    language: tuple[bool, bool]
    unjudged: str = ""


@dataclass(frozen=True)
class Checks:
    """Whether responses are right, and one is in the language asked in."""

    right: Callable[[Sequence[str], Sequence[Sample]], list[Judged]]
    language: Callable[[str, str], bool]


@dataclass(frozen=True)
class Assessment:
    """The outcome. `looks`: verdict and criteria of every round, the last one's are the verdict's."""

    verdict: Verdict
    bars: list[Bar]
    looks: list[dict[str, Any]]
    asked: list[Asked]
    models: list[Path]

    @property
    def judged(self) -> list[Asked]:
        """The questions of which both answers have a verdict."""
        return [one for one in self.asked if not one.unjudged]


def assess(
    start: Path,
    rounds: Sequence[dict[str, list[Sample]]],
    own: Sequence[Sample],
    train: Train,
    ask: Ask,
    checks: Checks,
    section: AssessSection,
    seed: int,
    scratch: Path,
    base_answers: Path | None = None,
) -> Assessment:
    """Trains, asks and judges until there is a verdict or the rounds are through.

    `rounds[r]`: the questions of round r by probe ("vertical", "general"); no round shares one with another.
    `own`: questions of the batch itself, asked in the first round; they decide nothing and serve the feedback.
    `base_answers`: where the base's answers are kept, for other assessments of the same base too (`scratch`, if None).
    Raises UserError for rounds without questions.
    """
    if not rounds or any(not block.get(name) for block in rounds[:1] for name in ("vertical", "general")):
        raise UserError("an assessment needs held-out questions of the vertical and of the general set; there are none")
    asked: list[Asked] = []
    looks: list[dict[str, Any]] = []
    models: list[Path] = []
    verdict: Verdict = "undecided"
    bars: list[Bar] = []
    for number, block in enumerate(rounds[: section.rounds]):
        folder = scratch / f"round-{number}"
        if not models or section.train_anew:
            models.append(train(seed + number, folder / "training"))
        questions = {**block, "own": list(own)} if number == 0 else block
        for probe in PROBES:
            if questions.get(probe):
                places = ((base_answers or scratch) / f"round-{number}", folder)
                asked += _asked(probe, number, questions[probe], (start, models[-1]), places, ask, checks)
        verdict, bars = judge(_columns(asked), section)
        looks.append(
            {"round": number, "verdict": verdict, "criteria": {bar.name: bar.record() for bar in bars}},
        )
        if verdict != "undecided":
            break
    return Assessment(verdict, bars, looks, asked, models)


def sentence(found: Assessment, section: AssessSection) -> str:
    """The verdict and why, in a sentence or two for a person."""
    parts: list[str] = []
    for bar in found.bars:
        low, high = bar.record()["low"], bar.record()["high"]
        state = {"holds": "holds", "fails": "FAILS", "open": "is open"}[bar.shown]
        kind = "must rise by more than" if bar.threshold >= 0 else "may fall by less than"
        parts.append(
            f"{bar.name} {state}: {bar.before:.1%} → {bar.after:.1%} ({bar.pairs.difference:+.1%}, 95 % {low:+.1%} to "
            f"{high:+.1%}, {bar.pairs.asked} questions; {kind} {abs(bar.threshold):.1%})"
        )
    return f"{found.verdict}: " + "; ".join(parts)


def _columns(asked: Sequence[Asked]) -> dict[str, tuple[list[bool], list[bool]]]:
    """Criterion -> right before, right after, over what counts for it."""
    counted = [one for one in asked if one.probe != "own"]
    columns = {
        name: ([one.right[0] for one in chosen], [one.right[1] for one in chosen])
        for name in ("vertical", "general")
        if (chosen := [one for one in counted if one.probe == name and not one.unjudged])
    }
    for name in ("vertical", "general"):
        if name not in columns:
            raise UserError(f"sft.verifier: of no {name} question both answers have a verdict; mend it or name another")
    return {**columns, "language": ([one.language[0] for one in counted], [one.language[1] for one in counted])}


def _asked(
    probe: str,
    number: int,
    questions: Sequence[Sample],
    models: tuple[Path, Path],
    places: tuple[Path, Path],
    ask: Ask,
    checks: Checks,
) -> list[Asked]:
    said: dict[str, list[str]] = {}
    for name, model, place in zip(("base", "trained"), models, places, strict=True):
        file = place / f"{probe}-{name}.json"
        answer = partial(ask, model, questions, f"{probe} questions, {name}")
        said[name] = _said(file, ask.identity(model), questions, answer)
    verdicts = zip(*(checks.right(said[name], questions) for name in ("base", "trained")), strict=True)
    found: list[Asked] = []
    for sample, before, after, right in zip(questions, said["base"], said["trained"], verdicts, strict=True):
        unjudged = next((one.reason for one in right if one.right is None), "")
        found.append(
            Asked(
                id=sample.id,
                probe=probe,
                round=number,
                before=before,
                after=after,
                right=(right[0].right is True, right[1].right is True),
                language=(checks.language(before, sample.language), checks.language(after, sample.language)),
                unjudged=unjudged,
            )
        )
    return found


def _said(path: Path, model: str, questions: Sequence[Sample], answer: Callable[[], list[str]]) -> list[str]:
    """The answers of that very model kept in a file, or new ones that are kept there."""
    asked = [[s.images, [m.model_dump(exclude_none=True) for m in s.messages[:-1]]] for s in questions]
    name = content_id("answers", model, asked)
    kept = read_json(path)
    if kept is not None and kept.get("questions") == name:
        return cast("list[str]", kept["answers"])
    answers = answer()
    assert len(answers) == len(questions), "an answer for each question"
    write_json(path, {"questions": name, "answers": answers})
    return answers


def record(found: Assessment, section: AssessSection, about: dict[str, Any]) -> dict[str, Any]:
    """The contents of verdict.json. `about`: what was assessed, and on which questions."""
    return {
        "open4ov": "verdict-1",
        "verdict": found.verdict,
        "why": sentence(found, section),
        "false_admit": section.false_admit,
        "false_reject": section.false_reject,
        "thresholds": thresholds(section),
        "criteria": {bar.name: bar.record() for bar in found.bars},
        "looks": found.looks,
        **about,
    }


def write_answers(path: Path, asked: Sequence[Asked]) -> None:
    """Every question's answers, for who wants to look further, as JSON lines."""
    lines = [json.dumps(asdict(one), ensure_ascii=False) for one in asked]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
