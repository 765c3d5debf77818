"""Two models' answers to the same question, side by side: the paper's Figs. 9 and 11 to 14.

Each kind shows the first cases where the two part, for the better and for the worse, and says how many there are of
both: nobody picked them, and a case is no proof.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from open4ov.report.answers import Row
from open4ov.report.answers import pictures as of_question
from open4ov.report.pictures import Pictures

Pair = tuple[Row, Row]
Told = tuple[str, str, list[Pair], list[Pair], list[Pair]]
"""Title and description of a kind, all its pairs, and those that part for the better and for the worse"""
BETTER, WORSE = 2, 1
"""Cases shown of each direction"""
MOST = 4
"""Different responses shown of a question that was answered several times"""


@dataclass(frozen=True)
class Kind:
    """A kind of case. `of` says whether a question belongs to it."""

    title: str
    about: str
    of: Callable[[Row], bool]


@dataclass
class Shown:
    """What the page shows of a kind: cases, and how many questions each model alone answered rightly, of all."""

    title: str
    about: str
    better: int
    worse: int
    asked: int
    cases: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])


def kinds(vertical: Sequence[str]) -> list[Kind]:
    """Of right and wrong answers, in the order of the paper's figures. `vertical`: the suites of the vertical."""

    def suite(*names: str) -> Callable[[Row], bool]:
        return lambda row: row.suite in names

    return [
        Kind("Knowledge of the vertical", "What the base could not know (Fig. 9).", suite(*vertical)),
        Kind(
            "Chinese",
            "Questions in Chinese, outside of the vertical (Fig. 11).",
            lambda row: row.language == "zh" and row.suite not in vertical,
        ),
        Kind("A picture that has nothing to do with it", "Cross-modal inconsistency (Fig. 12).", suite("mismatch")),
        Kind("An unrelated exchange before", "Context inconsistency (Fig. 12).", suite("context")),
        Kind("A picture that is not there", "Missing images (Fig. 12).", suite("missing_image")),
        Kind("Something that is not in the picture", "Made up, or denied.", suite("absent")),
    ]


def shown(pairs: Sequence[Pair], vertical: Sequence[str], pictures: Pictures) -> list[Shown]:
    """All kinds that the two models were asked about, with different and shorter answers as the last two."""
    illustrated = {pair[0].suite for pair in pairs if of_question(pair)}
    found: list[Shown] = []
    for title, about, own, better, worse in (*_right(pairs, vertical), *_different(pairs), *_shorter(pairs)):
        chosen = [*_illustrated(better, BETTER), *_illustrated(worse, WORSE)]
        cases = [_case(pair, pictures, illustrated) for pair in chosen]
        found.append(Shown(title, about, len(better), len(worse), len(own), cases))
    return found


def _right(pairs: Sequence[Pair], vertical: Sequence[str]) -> Iterator[Told]:
    for kind in kinds(vertical):
        own = [pair for pair in pairs if kind.of(pair[0]) and len(pair[0].responses) == 1]
        if own:
            better = [pair for pair in own if pair[1].is_right and not pair[0].is_right]
            worse = [pair for pair in own if pair[0].is_right and not pair[1].is_right]
            yield kind.title, kind.about, own, better, worse


def _different(pairs: Sequence[Pair]) -> Iterator[Told]:
    """Sampled responses to one question: those of which one model wrote more different ones. Fig. 13."""
    sampled = [pair for pair in pairs if len(pair[0].responses) > 1]
    if sampled:
        gap = {id(pair): _variety(pair[1]) - _variety(pair[0]) for pair in sampled}
        order = sorted(sampled, key=lambda pair: -gap[id(pair)])
        better = [pair for pair in order if gap[id(pair)] > 0]
        worse = [pair for pair in reversed(order) if gap[id(pair)] < 0]
        about = "Responses sampled for one question; more of them are worded differently (Fig. 13)."
        yield "Different responses", about, sampled, better, worse


def _shorter(pairs: Sequence[Pair]) -> Iterator[Told]:
    """Both right, one in fewer tokens. Fig. 14."""
    both = [pair for pair in pairs if len(pair[0].responses) == 1 and pair[0].is_right and pair[1].is_right]
    if both:
        order = sorted(both, key=lambda pair: pair[1].tokens[0] - pair[0].tokens[0])
        better = [pair for pair in order if pair[1].tokens[0] < pair[0].tokens[0]]
        worse = [pair for pair in reversed(order) if pair[1].tokens[0] > pair[0].tokens[0]]
        about = "Both are right; one needs fewer tokens (Fig. 14)."
        yield "Shorter responses", about, both, better, worse


def _variety(row: Row) -> int:
    return len(set(row.responses))


def _illustrated(pairs: Sequence[Pair], count: int) -> list[Pair]:
    """The first pairs, those whose pictures were kept before the others."""
    kept = [pair for pair in pairs if of_question(pair)]
    others = [pair for pair in pairs if not of_question(pair)]
    return [*kept, *others][:count]


def _case(pair: Pair, pictures: Pictures, illustrated: set[str]) -> dict[str, Any]:
    """`kept`: its pictures are there, or its suite has none."""
    first, seen = pair[0], of_question(pair)
    return {
        "suite": first.suite,
        "pictures": [pictures.uri(sha) for sha in seen],
        "kept": bool(seen) or first.suite not in illustrated,
        "earlier": first.earlier or "",
        "question": first.question,
        "reference": first.reference,
        "answers": [_responses(row) for row in pair],
    }


def _responses(row: Row) -> list[dict[str, Any]]:
    """Each different response once, with how often it was given; the commonest first."""
    times = Counter(row.responses)
    first = {text: place for place, text in reversed(list(enumerate(row.responses)))}
    order = sorted(first, key=lambda text: (-times[text], first[text]))[:MOST]
    return [
        {"text": text, "right": row.right[first[text]], "tokens": row.tokens[first[text]], "times": times[text]}
        for text in order
    ]
