"""How often A wins: ties count half, judges of one question are averaged, and questions are what is resampled.

A pair of identical answers is a tie that nobody was asked about. What no judge has decided counts for nothing, and is
counted.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from open4ov.evaluate.metrics import bootstrap
from open4ov.evaluate.versus.pairs import Pair
from open4ov.evaluate.versus.verdicts import Verdict


def points(pair: Pair, verdict: Verdict) -> float:
    """A's: 1 for a win, 1/2 for a tie, 0 for a loss."""
    if verdict.choice == "tie":
        return 0.5
    return float((verdict.choice == "left") != pair.swapped)


def result(
    pairs: Sequence[Pair], judges: Mapping[str, Mapping[str, Verdict]], confidence: float = 0.95
) -> dict[str, Any]:
    """`win_rate` of A {score, low, high} (None without a verdict; bootstrap over questions), `wins`, `ties`, `losses`
    of A over verdicts, `identical` and `open` pairs, `questions` counted, `left` (the share of decisive verdicts for
    the left side: 0.5 when sides do not matter), and for each of `judges` the same figures of its own."""
    overall = _figures(pairs, judges, confidence)
    own = {name: _figures(pairs, {name: verdicts}, confidence) for name, verdicts in judges.items()}
    return {**overall, "confidence": confidence, "judges": own, "agreement": agreement(judges)}


def _figures(pairs: Sequence[Pair], judges: Mapping[str, Mapping[str, Verdict]], confidence: float) -> dict[str, Any]:
    scores: list[float] = []
    counted: Counter[float] = Counter()
    sides: Counter[str] = Counter()
    identical = undecided = 0
    for pair in pairs:
        said = [verdicts[pair.id] for verdicts in judges.values() if pair.id in verdicts]
        if pair.identical:
            identical += 1
            scores.append(0.5)
        elif said:
            given = [points(pair, verdict) for verdict in said]
            counted.update(given)
            sides.update(verdict.choice for verdict in said)
            scores.append(statistics.fmean(given))
        else:
            undecided += 1
    decided = sides["left"] + sides["right"]
    judged = len(scores) > identical
    return {
        "win_rate": bootstrap([scores], confidence, "versus").as_dict()
        if judged or (scores and not undecided)
        else None,
        "wins": counted[1.0],
        "ties": counted[0.5],
        "losses": counted[0.0],
        "identical": identical,
        "open": undecided,
        "questions": len(scores),
        "left": round(sides["left"] / decided, 6) if decided else None,
    }


def agreement(judges: Mapping[str, Mapping[str, Verdict]]) -> list[dict[str, Any]]:
    """For each two judges: `pairs` that both decided, and the `equal` share of them."""
    names = sorted(judges)
    found: list[dict[str, Any]] = []
    for place, one in enumerate(names):
        for other in names[place + 1 :]:
            both = judges[one].keys() & judges[other].keys()
            equal = [judges[one][pair].choice == judges[other][pair].choice for pair in both]
            found.append(
                {"judges": [one, other], "pairs": len(both), "equal": statistics.fmean(equal) if equal else None}
            )
    return found


def text(found: Mapping[str, Any]) -> str:
    """The figures for people."""
    rate = found["win_rate"]
    if rate is None:
        said = "no verdict yet"
    else:
        low, high = 100 * rate["low"], 100 * rate["high"]
        clear = "A is better" if rate["low"] > 0.5 else "B is better" if rate["high"] < 0.5 else "not clear"
        said = (
            f"A wins {100 * rate['score']:.1f} % ({100 * found['confidence']:g} % interval {low:.1f} to {high:.1f}; "
            f"ties count half): {clear}"
        )
    lines = [
        said,
        f"verdicts: {found['wins']} for A, {found['losses']} for B, {found['ties']} ties; {found['identical']} pairs "
        f"identical, {found['open']} open",
    ]
    if found["left"] is not None:
        lines.append(f"the left side won {100 * found['left']:.1f} % of decisive verdicts")
    for name, own in found["judges"].items():
        if own["win_rate"] is not None and len(found["judges"]) > 1:
            lines.append(f"  {name}: {own['wins']} for A, {own['losses']} for B, {own['ties']} ties")
    lines += [
        f"  {' and '.join(one['judges'])} agree on {100 * one['equal']:.0f} % of {one['pairs']}"
        for one in found["agreement"]
        if one["equal"] is not None
    ]
    return "\n".join(lines)
