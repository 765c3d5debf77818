"""The questions and answers that the gallery shows, as the page's script reads them.

    {models: [{name, title}], suites: {name: title}, texts: [...], pictures: {sha: data URI}, left_out,
     cases: [{suite, language, question, earlier, reference, pictures: [sha], kept, answers: [[response]]}]}

`question`, `earlier`, `reference` and responses' texts are places in `texts`, where each text stands once. A response
is [text, right, tokens, flag]; `FLAGS` names the flags. `kept`: the question's pictures are there, or it has none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from open4ov import refusals
from open4ov.report.answers import Row
from open4ov.report.pictures import Pictures

FLAGS = {"": 0, "refused": 1, "hallucinated": 2}
"""Of a response: says that there is no picture, or that what is asked for is not in it; or should have, and made
something up"""
LIMIT = 3_500_000
"""Characters of texts and records of one page"""
RECORD = 150
"""Characters of a case beside its texts, and of each response `RESPONSE`"""
RESPONSE = 14


def gallery(
    answers: Mapping[str, Sequence[Row]],
    titles: Mapping[str, str],
    suites: Mapping[str, str],
    pictures: Pictures,
    limit: int = LIMIT,
) -> dict[str, Any]:
    """model -> rows (the same questions in the same order) as described above.

    Beyond `limit` characters questions are left out: those first about which all models agree, then the later ones.
    """
    models = list(answers.values())
    questions = list(zip(*models, strict=True))
    shown = _chosen(questions, limit)
    illustrated = {rows[0].suite for rows in questions if rows[0].pictures}
    texts: dict[str, int] = {}
    uris: dict[str, str] = {}
    made: list[dict[str, Any]] = []
    for rows in (questions[place] for place in shown):
        first = rows[0]
        for sha in first.pictures:
            if uri := pictures.uri(sha):
                uris[sha] = uri
        kept = all(sha in uris for sha in first.pictures) and bool(first.pictures or first.suite not in illustrated)
        made.append(
            {
                "suite": first.suite,
                "language": first.language,
                "question": _place(texts, first.question),
                "earlier": _place(texts, first.earlier or ""),
                "reference": _place(texts, first.reference),
                "pictures": list(first.pictures),
                "kept": kept,
                "answers": [_responses(row, texts) for row in rows],
            }
        )
    return {
        "models": [{"name": name, "title": titles.get(name, name)} for name in answers],
        "suites": {name: suites.get(name, name) for name in dict.fromkeys(case["suite"] for case in made)},
        "texts": list(texts),
        "pictures": uris,
        "left_out": len(questions) - len(shown),
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
    """Places of the questions that fit, in their order: suites in turn, in each those about which models differ first,
    and of those the ones with pictures."""
    by_suite: dict[str, list[int]] = {}
    for place, rows in enumerate(questions):
        by_suite.setdefault(rows[0].suite, []).append(place)
    for places in by_suite.values():
        places.sort(key=lambda at: (not _differ(questions[at]), not questions[at][0].pictures, at))
    rounds = max(map(len, by_suite.values()), default=0)
    order = [places[turn] for turn in range(rounds) for places in by_suite.values() if turn < len(places)]
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
    return sorted(chosen)


def _differ(rows: Sequence[Row]) -> bool:
    return len({row.is_right for row in rows}) > 1
