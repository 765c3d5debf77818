"""The questions and answers that the gallery shows, as the page's script reads them.

    {models: [{name, title}], suites: {name: title}, texts: [...], pictures: {sha: data URI}, left_out,
     cases: [{suite, language, question, earlier, reference, pictures: [sha or ""], kept, answers: [[response]]}]}

`question`, `earlier`, `reference` and responses' texts are places in `texts`, where each text stands once. A response
is [text, right, tokens, flag]; `FLAGS` names the flags. `kept`: the question's pictures are there, or it has none;
"" stands for one that is not in the page.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from open4ov import refusals
from open4ov.report.answers import Row
from open4ov.report.answers import pictures as of_question
from open4ov.report.pictures import Pictures

FLAGS = {"": 0, "refused": 1, "hallucinated": 2}
"""Of a response: says that there is no picture, or that what is asked for is not in it; or should have, and made
something up"""
LIMIT = 3_500_000
"""Characters of texts and records of one page"""
RECORD = 150
"""Characters of a case beside its texts, and of each response `RESPONSE`"""
RESPONSE = 14
PLAIN = 8
"""Questions of a suite about which nothing happened whose pictures are shown all the same"""


def gallery(
    answers: Mapping[str, Sequence[Row]],
    titles: Mapping[str, str],
    suites: Mapping[str, str],
    pictures: Pictures,
    limit: int = LIMIT,
) -> dict[str, Any]:
    """model -> rows (the same questions in the same order) as described above.

    Questions tell more the more became of them: fixed or broken between first and last model, made something up in
    one, answered otherwise by one of those between. Beyond `limit` characters those that tell least are left out, and
    so are pictures beyond what `pictures` takes; of the plain ones `PLAIN` a suite have their pictures.
    """
    models = list(answers.values())
    questions = list(zip(*models, strict=True))
    chosen = _chosen(questions, limit)
    uris = _uris([questions[place] for place in chosen], pictures)
    illustrated = {rows[0].suite for rows in questions if of_question(rows)}
    texts: dict[str, int] = {}
    made: list[dict[str, Any]] = []
    for rows in (questions[place] for place in sorted(chosen)):
        first, seen = rows[0], of_question(rows)
        kept = all(sha in uris for sha in seen) and bool(seen or first.suite not in illustrated)
        made.append(
            {
                "suite": first.suite,
                "language": first.language,
                "question": _place(texts, first.question),
                "earlier": _place(texts, first.earlier or ""),
                "reference": _place(texts, first.reference),
                "pictures": [sha if sha in uris else "" for sha in seen],
                "kept": kept,
                "answers": [_responses(row, texts) for row in rows],
            }
        )
    return {
        "models": [{"name": name, "title": titles.get(name, name)} for name in answers],
        "suites": {name: suites.get(name, name) for name in dict.fromkeys(case["suite"] for case in made)},
        "texts": list(texts),
        "pictures": uris,
        "left_out": len(questions) - len(chosen),
        "cases": made,
    }


def flag(row: Row, response: str, right: bool) -> str:
    """A name of `FLAGS` for one response."""
    if refusals.refuses(response) or (row.rule == "denial" and refusals.denies(response)):
        return "refused"
    return "hallucinated" if row.rule in ("refusal", "denial") and not right else ""


def _responses(row: Row, texts: dict[str, int]) -> list[list[int]]:
    return [
        [_place(texts, text), int(right), int(tokens), FLAGS[flag(row, text, right)]]
        for text, right, tokens in zip(row.responses, row.right, row.tokens, strict=True)
    ]


def _place(texts: dict[str, int], text: str) -> int:
    return texts.setdefault(text, len(texts))


def _chosen(questions: Sequence[tuple[Row, ...]], limit: int) -> list[int]:
    """Places of the questions that fit, those that tell most first: suites in turn, in each those with pictures before
    the others, and all those about which nothing happened at the end."""
    by_suite: dict[str, list[int]] = {}
    for place, rows in enumerate(questions):
        by_suite.setdefault(rows[0].suite, []).append(place)
    told = [_told(rows) for rows in questions]
    turns: dict[int, int] = {}
    for places in by_suite.values():
        places.sort(key=lambda at: (told[at], not of_question(questions[at]), at))
        turns |= {place: turn for turn, place in enumerate(places)}
    order = [place for places in by_suite.values() for place in places]
    order.sort(key=lambda at: (told[at] == NOTHING, turns[at]))  # a stable sort: suites stay in their order
    chosen: list[int] = []
    used = 0
    seen: set[str] = set()
    for place in order:
        rows = questions[place]
        said = {text for row in rows for text in (row.question, row.earlier or "", *row.responses)} - seen
        used += RECORD + sum(len(text) + 4 for text in said) + RESPONSE * sum(len(row.responses) for row in rows)
        if used > limit:
            break
        seen |= said
        chosen.append(place)
    return chosen


def _uris(questions: Sequence[tuple[Row, ...]], pictures: Pictures) -> dict[str, str]:
    """Pictures of the questions in their order, as far as there is room."""
    found: dict[str, str] = {}
    plain: Counter[str] = Counter()
    for rows in questions:
        suite, seen = rows[0].suite, of_question(rows)
        if _told(rows) == NOTHING and seen:
            plain[suite] += 1
            if plain[suite] > PLAIN:
                continue
        found |= {sha: uri for sha in seen if (uri := pictures.uri(sha))}
    return found


NOTHING = 3


def _told(rows: Sequence[Row]) -> int:
    """What became of a question, from 0, fixed or broken, to `NOTHING`."""
    if rows[0].is_right != rows[-1].is_right:
        return 0
    said = ((row, text, ok) for row in rows for text, ok in zip(row.responses, row.right, strict=True))
    if any(flag(*one) == "hallucinated" for one in said):
        return 1
    return 2 if len({row.is_right for row in rows}) > 1 else NOTHING
