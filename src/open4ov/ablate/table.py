"""The claims as Markdown, and its place in a document that a person has written."""

from __future__ import annotations

import math
from pathlib import Path

from open4ov.ablate.effects import side, unit
from open4ov.ablate.figures import FIGURES
from open4ov.ablate.outcome import Finding, Outcome, Report
from open4ov.ablate.verdict import ALIKE, LEAST, Verdict
from open4ov.errors import UserError
from open4ov.evaluate.scores import GROUPS, ROWS
from open4ov.store import atomic

BEGIN, END = "<!-- claims{}: begin -->", "<!-- claims{}: end -->"
"""Lines of a document between which the table goes, with the name of one of several"""
SHOWN = (
    *("general", "vertical", "text", "reasoning_greedy", "reasoning", "reasoning_pass_k", "diversity", "length"),
    *("mismatch", "context", "missing_image", "false_refusal", "tokens_per_point", "seconds_per_point"),
)
"""Rows of the arms' own table"""


def to_markdown(report: Report, about: str = "") -> str:
    """The table, the rules by which it is judged, what was not run and why, and notes. `about`: lines on the command,
    the machine and the commit."""
    level = f"{100 * report.confidence:g} %"
    lines = [about.rstrip(), ""] if about else []
    lines += [
        f"| claim | paper | verdict | arm minus control | effect | {level} interval | | seeds | cost, arm / control |",
        "|---|---|---|---|--:|---|---|--:|---|",
    ]
    for outcome in report.outcomes:
        if outcome.findings:
            lines += _rows(outcome, report)
    lines += ["", *_rules(report)]
    lines += _undecided(report) + _holm(report) + _not_run(report) + _arms(report) + _notes(report)
    return "\n".join(lines) + "\n"


def _rows(outcome: Outcome, report: Report) -> list[str]:
    claim = outcome.claim
    versus = f"`{claim.arms[-1]}` − `{claim.controls[-1]}`"
    rows: list[str] = []
    for place, found in enumerate(outcome.findings):
        first = place == 0
        cells = [
            f"**{outcome.name}**: {claim.claim} ({versus})" if first else "",
            claim.section if first else "",
            f"**{outcome.verdict}**" if first else "",
            _asked(found),
            _shown(found, found.value, signed=True),
            f"{_shown(found, found.low, signed=True)} to {_shown(found, found.high, signed=True)}",
            found.verdict
            + (", too small to matter" if found.small else "")
            + (", not by Holm's method" if _shaky(outcome, found, report) else ""),
            str(len(outcome.seeds)) if first else "",
            _cost(outcome) if first else "",
        ]
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return rows


def _asked(found: Finding) -> str:
    """The row, and what is asked of it."""
    if found.kind == "sooner":
        return f"share of the tokens for the control's last score ({_title(found.row)})"
    more = side(found.row) > 0
    if found.kind == "better":
        return f"{_title(found.row)}: {'higher' if more else 'lower'}"
    return f"{_title(found.row)}: not {'lower' if more else 'higher'} by {_shown(found, found.margin)}"


def _title(row: str) -> str:
    return FIGURES[row].about if row in FIGURES else (ROWS | GROUPS)[row].title


def _shown(found: Finding, value: float, signed: bool = False) -> str:
    if found.kind == "sooner":
        return "more than all" if math.isinf(value) else "under the least" if value == 0 else f"{value:.2f}"
    if math.isinf(value):
        return "−∞" if value < 0 else "∞"
    sign = "+" if signed else ""
    if found.unit == "share":
        return f"{100 * value:{sign}.1f}"
    return f"{value:{sign}.2f}" if abs(value) < 100 else f"{value:{sign},.0f}"


def _cost(outcome: Outcome) -> str:
    """What differs or matters of the two: tokens and responses, and minutes."""
    claim, told = outcome.claim, outcome.cost
    mine, theirs = told[claim.arms[-1]], told[claim.controls[-1]]
    parts = [f"{_short(mine['seconds'] / 60)} / {_short(theirs['seconds'] / 60)} min"]
    for key, name in (("tokens", "tokens"), ("responses", "responses"), ("dpo_pairs", "pairs")):
        if mine[key] or theirs[key]:
            parts.append(f"{_short(mine[key])} / {_short(theirs[key])} {name}")
    return ", ".join(parts)


def _short(value: float) -> str:
    return f"{value / 1000:.0f}k" if value >= 10_000 else f"{value:,.0f}" if value >= 10 else f"{value:.1f}"


def _rules(report: Report) -> list[str]:
    return [
        "Effects of shares are in points; of the others in their own unit. Each seed's two runs are asked the same "
        "questions. The interval is the wider one of two: questions drawn, and Student's t over seeds. "
        "*higher* and *lower*: holds when the interval lies wholly on that side of 0, does not hold when it lies "
        "wholly on the other; *not lower by*: holds when it lies wholly above minus that, does not hold when it lies "
        "wholly below. A claim holds when all its lines do, and does not hold when one does not; with fewer than "
        f"{LEAST} seeds, and with budgets that differ by more than {100 * ALIKE:g} % with any seed, it is "
        "undecided. What is claimed of a large model may fail at this scale, and the other way round.",
    ]


def _undecided(report: Report) -> list[str]:
    told = [one for one in report.outcomes if one.findings and (one.reason or one.claim.unequal)]
    if not told:
        return []
    lines = [""]
    for one in told:
        budgets = f"budgets are not alike: {one.claim.unequal}" if one.claim.unequal else ""
        lines.append(f"- **{one.name}**: {'; '.join(filter(None, [budgets, one.reason]))}")
    return lines


def _shaky(outcome: Outcome, found: Finding, report: Report) -> bool:
    """Whether a decision does not outlive the number of tests."""
    p = report.adjusted.get((outcome.name, found.row), 0.0)
    return found.verdict != "undecided" and p > 1 - report.confidence


def _holm(report: Report) -> list[str]:
    """Which decisions would not outlive the number of tests."""
    level, count = 1 - report.confidence, len(report.adjusted)
    if count < 2:
        return []
    shaky = [
        f"{one.name} ({_title(found.row)}, p {report.adjusted[one.name, found.row]:.2g})"
        for one in report.outcomes
        for found in one.findings
        if _shaky(one, found, report)
    ]
    text = f"{count} tests were made: one in {1 / level:.0f} comes out by chance. "
    if shaky:
        return ["", f"{text}By Holm's method over all of this table these would be undecided: {'; '.join(shaky)}."]
    return ["", f"{text}All that is decided stays so by Holm's method over all of them."]


def _not_run(report: Report) -> list[str]:
    lacking = [one for one in report.outcomes if not one.findings]
    if not lacking:
        return []
    lines = ["", "Not run:", "", "| claim | paper | why | measured by |", "|---|---|---|---|"]
    for one in lacking:
        cells = [f"**{one.name}**: {one.claim.claim}", one.claim.section, one.reason, one.claim.measured_by or ""]
        lines.append("| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |")
    return lines


def _arms(report: Report) -> list[str]:
    rows = [row for row in SHOWN if any(row in scores for scores in report.arms.values())]
    if not rows:
        return []
    lines = ["", "Scores of the arms, the mean over seeds:", "", f"| arm | {' | '.join(map(_head, rows))} |"]
    lines.append("|---|" + "--:|" * len(rows))
    for name, scores in report.arms.items():
        cells = [_score(row, scores[row]) if row in scores else "" for row in rows]
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return lines


def _score(row: str, value: float) -> str:
    return f"{100 * value:.1f}" if unit(row) == "share" else f"{value:.2f}" if value < 100 else f"{value:,.0f}"


def _head(row: str) -> str:
    return f"`{row}`" if row in FIGURES else _title(row)


def _notes(report: Report) -> list[str]:
    return ["", *(f"- {note}" for note in report.notes)] if report.notes else []


def counts(report: Report) -> dict[Verdict, int]:
    """Verdict -> claims."""
    found: dict[Verdict, int] = {"holds": 0, "does not hold": 0, "undecided": 0, "not run": 0}
    for one in report.outcomes:
        found[one.verdict] += 1
    return found


def check_place(into: str) -> None:
    """Raises UserError for a document without the two lines, in their order and once each. `into`: FILE, or FILE#NAME
    where a document has several tables."""
    document, begin, end = _place(into)
    try:
        lines = [line.strip() for line in document.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--into {document}: cannot be read ({error})") from None
    if lines.count(begin) != 1 or lines.count(end) != 1 or lines.index(begin) > lines.index(end):
        raise UserError(
            f"--into {document}: needs the lines `{begin}` and `{end}`, once each, where the table is to go"
        )


def put(into: str, text: str) -> None:
    """Replaces what is between the two lines; all else stays as it is. Raises UserError as `check_place`."""
    check_place(into)
    document, *marks = _place(into)
    lines = document.read_text(encoding="utf-8").splitlines(keepends=True)
    first, last = (next(n for n, line in enumerate(lines) if line.strip() == mark) for mark in marks)
    with atomic(document) as temporary:
        made = "".join([*lines[: first + 1], "\n", text.strip(), "\n\n", *lines[last:]])
        temporary.write_text(made, encoding="utf-8")


def _place(into: str) -> tuple[Path, str, str]:
    """The document, and the lines that a table stands between."""
    document, _, name = into.partition("#")
    name = f" {name}" if name else ""
    return Path(document), BEGIN.format(name), END.format(name)
