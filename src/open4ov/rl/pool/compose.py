"""The pool of tasks that online RL draws from (paper §4.1.1), composed of validated sources (`admit.py`).

A stage leaves pool.parquet (the tasks, in the order in which they are trained on), excluded.parquet (what was kept out,
each with its reason), queue.parquet (what people should look at: `open4ov data view RUN/rl_pool`) and pool.json (counts
and shares as in the paper's Fig. 5). The question of each task gets its \\boxed{} instruction when it is read
(`tasks.read`), once.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from open4ov.errors import RefusedError, UserError
from open4ov.recipe import RlSection
from open4ov.rl.pool.admit import Admitted, Given, Tools, admit
from open4ov.rl.pool.answer_types import COMPARED
from open4ov.rl.pool.leakage import Blind
from open4ov.rl.pool.leakage import report as leakage_report
from open4ov.sample import Sample, content_id
from open4ov.store import write_json, write_samples

POOL, EXCLUDED, QUEUE, FIGURES = "pool.parquet", "excluded.parquet", "queue.parquet", "pool.json"

Screen = Callable[[Sequence[Sample]], Mapping[str, Blind]]
"""Tasks with pictures -> what came of asking them without, by id"""


def build(
    out: Path,
    section: RlSection,
    wanted: int,
    sources: Iterable[Given],
    tools: Tools,
    screen: Screen | None,
    keep: Callable[[Sample], None],
    seed: int,
    tell: Callable[[str, int, int], None] | None = None,
    note: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Writes a pool of `wanted` tasks (fewer where there are not so many) into `out`; gives the contents of pool.json.

    `screen`: the leakage screen; `keep`: puts a sample's pictures to where the others are. Raises RefusedError for a
    source that fails its bar, and for a queue that waits for decisions where `rl.pool.screened` asks for them; what was
    found is written before. Raises UserError for fewer tasks than one step has.
    """
    seen: set[str] = set()
    admitted: list[Admitted] = []
    for place, given in enumerate(sources):
        admitted.append(admit(given, section.pool, tools, seed, seen))
        if tell:
            tell("validating sources of tasks", place + 1, len(section.pool.sources))
    found: Mapping[str, Blind] = {}
    leaks: set[str] = set()
    asked: list[Sample] = []
    passing = not any(one.refused for one in admitted)
    chosen = compose(admitted, wanted, section.text_share, seed) if passing else []
    while screen is not None and passing:
        before = {sample.id for sample in asked}
        fresh = [sample for sample in chosen if sample.images and sample.id not in before]
        if not fresh:
            break
        asked += fresh
        found = screen(asked)
        leaks = {name for name, blind in found.items() if blind.survives}
        chosen = compose(admitted, wanted, section.text_share, seed, leaks)
    excluded = [sample for one in admitted for sample in one.out]
    leaking = [_leak(sample, found[sample.id]) for sample in asked if sample.id in leaks]
    chosen = [_asked_blind(sample, found) for sample in chosen]
    figures = told(admitted, chosen, wanted, section.text_share)
    if screen is not None:
        figures["leakage"] = leakage_report(asked, found)
    queue = [sample for one in admitted for sample in one.queue]
    for sample in (*chosen, *queue):
        keep(sample)
    write_samples(out / POOL, chosen)
    write_samples(out / EXCLUDED, _distinct([*excluded, *leaking]))
    write_samples(out / QUEUE, queue)
    write_json(out / FIGURES, figures)
    _refuse(admitted, section)
    if len(chosen) < min(wanted, section.prompts):
        raise UserError(
            f"rl.pool: {len(chosen)} tasks, fewer than the {section.prompts} of one step (rl.prompts); name more "
            f"sources under rl.pool.sources ({_left_out(figures, leaking)})"
        )
    if note:
        for line in notes(figures, section):
            note(line)
    return figures


def compose(
    admitted: Sequence[Admitted], wanted: int, text_share: float, seed: int, without: Iterable[str] = ()
) -> list[Sample]:
    """`wanted` tasks, of each source its share, and `text_share` of them all without a picture.

    Where both cannot be had, the share of texts is kept; what a source or one of the two parts is short of, the others
    make up as far as they can. `without`: ids that are not taken.
    """
    barred = set(without)
    weights = [one.section.share for one in admitted]
    pictured, texts = (
        [[s for s in one.samples if bool(s.images) == shown and s.id not in barred] for one in admitted]
        for shown in (True, False)
    )
    there, words = list(map(len, pictured)), list(map(len, texts))
    text = min(sum(words), max(round(wanted * text_share), wanted - sum(there)))
    due = shared(wanted, weights, [a + b for a, b in zip(there, words, strict=True)])
    of_texts = _within(text, weights, due, words)
    left = [max(0, most - part) for most, part in zip(due, of_texts, strict=True)]
    of_pictures = _within(min(sum(there), wanted - text), weights, left, there)
    chosen: list[Sample] = []
    for part, counts in ((pictured, of_pictures), (texts, of_texts)):
        for samples, count in zip(part, counts, strict=True):
            chosen += samples[:count]
    random.Random(f"rl tasks {seed}").shuffle(chosen)
    return chosen


def _within(count: int, weights: Sequence[float], due: Sequence[int], there: Sequence[int]) -> list[int]:
    """`count` things, no source more than is due to it as long as others have some."""
    first = shared(count, weights, list(map(min, due, there)))
    rest = shared(count - sum(first), weights, [most - mine for most, mine in zip(there, first, strict=True)])
    return [a + b for a, b in zip(first, rest, strict=True)]


def shared(count: int, weights: Sequence[float], there: Sequence[int]) -> list[int]:
    """`count` things shared out by weights (largest remainders), none having more than it holds."""
    given = [0] * len(weights)
    able: list[int]
    able, left = list(range(len(weights))), min(count, sum(there))
    while left and able:
        total = sum(weights[i] for i in able)
        due = {i: left * weights[i] / total for i in able}
        full = [i for i in able if due[i] >= there[i]]
        if not full:
            for i in able:
                given[i] = int(due[i])
            left -= sum(given[i] for i in able)
            for i in sorted(able, key=lambda i: (int(due[i]) - due[i], i))[:left]:
                given[i] += 1
            break
        for i in full:
            given[i] = there[i]
            left -= there[i]
        able = [i for i in able if i not in full]
    return given


def told(admitted: Sequence[Admitted], chosen: Sequence[Sample], wanted: int, text_share: float) -> dict[str, Any]:
    """The contents of pool.json."""
    used = Counter(str(sample.extra["pool"]["source"]) for sample in chosen)
    text = sum(not sample.images for sample in chosen)
    return {
        "wanted": wanted,
        "tasks": len(chosen),
        "text_share": {"asked": text_share, "is": round(text / len(chosen), 4) if chosen else 0.0},
        "by": distribution(chosen),
        "sources": [{**one.figures, "used": used[one.section.title]} for one in admitted],
        "answers": {kind: COMPARED[kind] for kind in COMPARED if any(_of(s, "answer") == kind for s in chosen)},
    }


def distribution(samples: Sequence[Sample]) -> dict[str, dict[str, dict[str, float]]]:
    """How many tasks, and which share of them, are of each source, domain, kind of question, kind of answer, language;
    with a picture or without; turned from multiple choice or open from the start (Fig. 5)."""
    rows: dict[str, Callable[[Sample], str]] = {
        "source": lambda s: _of(s, "source"),
        "domain": lambda s: _of(s, "domain"),
        "task": lambda s: s.task,
        "answer": lambda s: _of(s, "answer"),
        "language": lambda s: s.language,
        "pictures": lambda s: "image" if s.images else "text",
        "form": lambda s: "cloze" if "cloze" in s.extra else "open",
    }
    return {
        name: {
            value: {"count": count, "share": round(count / len(samples), 4)}
            for value, count in Counter(map(of, samples)).most_common()
        }
        for name, of in rows.items()
    }


def notes(figures: Mapping[str, Any], section: RlSection) -> list[str]:
    """What a user should look at, a line each."""
    found: list[str] = []
    if figures["tasks"] < figures["wanted"]:
        found.append(
            f"{figures['tasks']} tasks for {figures['wanted']} prompts: they are gone through several times; name more "
            "sources under rl.pool.sources"
        )
    shares = figures["text_share"]
    if figures["tasks"] and abs(shares["is"] - shares["asked"]) > 1 / figures["tasks"]:
        found.append(f"{shares['is']:.1%} of the tasks have no picture (rl.text_share = {shares['asked']:g})")
    for one in figures["sources"]:
        if one["excluded"]:
            told = ", ".join(f"{count} {reason}" for reason, count in one["excluded"].items())
            found.append(
                f"'{one['name']}': {one['admitted']} of {one['candidates']} samples are tasks; kept out: {told}"
            )
    waiting = sum(one["screened"]["waiting"] for one in figures["sources"])
    if waiting:
        found.append(f"{waiting} samples are set out to be screened: open4ov data view RUN/rl_pool")
    if leaks := sum(one["survive"] for one in figures.get("leakage", {}).values()):
        found.append(f"{leaks} answers survive the removal of the picture, and are kept out")
    return found


def _refuse(admitted: Sequence[Admitted], section: RlSection) -> None:
    if refused := [one.refused for one in admitted if one.refused]:
        raise RefusedError(
            "rl.pool.sources: "
            + "\n".join(refused)
            + f"\nMend the source, take it out, or raise rl.pool.max_bad; {EXCLUDED} has every sample with its reason"
        )
    waiting = sum(one.waiting for one in admitted)
    if section.pool.screened and waiting:
        raise RefusedError(
            f"rl.pool.screened: {waiting} samples of the queue have no decision yet. Look at them with `open4ov data "
            f"view` (the folder that holds {QUEUE}), and name the decisions under rl.pool.decisions"
        )


def _left_out(figures: Mapping[str, Any], leaking: Sequence[Sample]) -> str:
    told = [f"'{one['name']}' has {one['admitted']} of {one['candidates']}" for one in figures["sources"]]
    return ", ".join([*told, *([f"{len(leaking)} leak their answer"] if leaking else [])])


def _leak(sample: Sample, blind: Blind) -> Sample:
    reason = f"{blind.right} of {blind.responses} answers without the picture are right (a guess: {blind.guess:.2f})"
    about = {"rejected_by": "leakage", "reason": reason, "leakage": blind.record}
    return sample.model_copy(update={"extra": {**sample.extra, **about}})


def _asked_blind(sample: Sample, found: Mapping[str, Blind]) -> Sample:
    if sample.id not in found:
        return sample
    return sample.model_copy(update={"extra": {**sample.extra, "leakage": found[sample.id].record}})


def _distinct(samples: Sequence[Sample]) -> list[Sample]:
    """With other ids where one came before: what is kept out may have been there twice."""
    seen: set[str] = set()
    made: list[Sample] = []
    for number, sample in enumerate(samples):
        if sample.id in seen:
            sample = sample.model_copy(update={"id": content_id(sample.id, number)})
        seen.add(sample.id)
        made.append(sample)
    return made


def _of(sample: Sample, key: str) -> str:
    return str(sample.extra["pool"][key])
