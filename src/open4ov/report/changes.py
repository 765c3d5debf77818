"""What each stage gave and took: by suite the paired change from the model before, and the fate of every question.

A question is *kept* by a model that answers it rightly as the base and all models between did; *regained* when one of
those between did not; *learned* when the base did not; *forgotten* when the base did and this model does not; *lost*
when a model between had learned it and this one does not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from open4ov.report.answers import Row

FATES = ("kept", "regained", "learned", "forgotten", "lost")


def fate(known: Sequence[bool]) -> str:
    """What the last of several models, base first, did with a question: a name of `FATES`, or "never"."""
    base, now, between = known[0], known[-1], known[1:-1]
    if now:
        return "learned" if not base else "kept" if all(between) else "regained"
    return "forgotten" if base else "lost" if any(between) else "never"


def fates(answers: Mapping[str, Sequence[Row]], groups: Mapping[str, Sequence[str]]) -> dict[str, list[dict[str, int]]]:
    """group -> for each model after the base the number of questions of each fate, and of all. `groups`: title ->
    suites; suites of none of them are taken together."""
    models = list(answers.values())
    named = {suite: title for title, suites in groups.items() for suite in suites}
    found: dict[str, list[dict[str, int]]] = {title: [] for title in groups}
    for last in range(1, len(models)):
        for rows in zip(*models[: last + 1], strict=True):
            title = named.get(rows[0].suite, "other suites")
            own = found.setdefault(title, [])
            if len(own) < last:
                own.append(dict.fromkeys(("questions", *FATES, "never"), 0))
            own[-1]["questions"] += 1
            own[-1][fate([row.is_right for row in rows])] += 1
    return {title: counts for title, counts in found.items() if counts}


def stages(
    table: Mapping[str, Any], results: Mapping[str, Mapping[str, Any]], answers: Mapping[str, Sequence[Row]]
) -> list[dict[str, Any]]:
    """A row for each row of the table: its change by each stage after the first model's.

    A change is {score, low, high, verdict, gained, lost}: this model minus the one before on the same questions, what
    is clear of zero as "up" or "down", and how many questions went from wrong to right and back (None for groups and
    what is no share); None where it was not measured.
    """
    names = list(results)
    flips = {
        (earlier, later): _flips(answers[earlier], answers[later])
        for earlier, later in pairwise(names)
        if earlier in answers and later in answers
    }
    made: list[dict[str, Any]] = []
    for row in table["rows"]:
        changes: list[dict[str, Any] | None] = []
        for earlier, later in pairwise(names):
            found = results[later]["differences"].get(earlier, {}).get(row["name"])
            if found is None:
                changes.append(None)
                continue
            clear = found["low"] > 0 or found["high"] < 0
            good = (found["score"] > 0) == (row["better"] == "higher")
            gained, lost = flips.get((earlier, later), {}).get(row["name"], (None, None))
            verdict = "" if not clear else "up" if good else "down"
            changes.append({**found, "verdict": verdict, "gained": gained, "lost": lost})
        made.append({**{key: row[key] for key in ("name", "title", "unit", "better", "group")}, "changes": changes})
    return made


def _flips(earlier: Sequence[Row], later: Sequence[Row]) -> dict[str, tuple[int, int]]:
    counts: dict[str, tuple[int, int]] = {}
    for before, after in zip(earlier, later, strict=True):
        gained, lost = counts.get(before.suite, (0, 0))
        was, now = before.is_right, after.is_right
        counts[before.suite] = gained + (now and not was), lost + (was and not now)
    return counts
