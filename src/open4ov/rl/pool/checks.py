"""The automatic checks that a sample passes before it becomes a task (paper §4.1.1: every source is validated).

A fault is either a defect of the sample, which counts against its source, or says that it is no task of this kind: a
conversation, a question whose answer is a sentence.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from open4ov.answers import boxed, normalise, plainly, same
from open4ov.rl.pool.answer_types import COMPARED, VERIFIABLE, kind, spellings
from open4ov.rl.rewards import Reward
from open4ov.sample import Sample

Opens = Callable[[str], None]
"""Raises ValueError (`ImageError`) for a picture that cannot be had, by its digest"""

_FINAL = re.compile(r"####\s*(.+?)\s*$")
_TOLD = re.compile(
    r"(?:\b(?:correct |final )?answer\s*(?:is|:)|答案\s*(?:是|为|[:：]))\s*(?P<told>[^\n。?？]{1,80})", re.IGNORECASE
)
_CHOICE = re.compile(r"\bor\b|\bamong\b|\bfrom\b|还是|或|[:：].*[,，、]", re.IGNORECASE)
_QUOTED = re.compile(r"\"[^\"]*\"|“[^”]*”|「[^」]*」|'[^']+'(?![a-z])")
_STRANGE = "no such answer 7f3a"


@dataclass(frozen=True)
class Fault:
    """Why a sample is kept out: `by` names the check, `reason` says it in words; `defect`: it counts as broken."""

    by: str
    reason: str
    defect: bool = False


def settled(sample: Sample) -> Sample:
    """The sample with the short answer that a verifier compares, and a date's other spellings as aliases.

    The answer is its own, or what its own or its response's box holds, or what stands behind "####" (as in GSM8K); a
    sample without one has its response for an answer, if that is short.
    """
    said = sample.messages[-1].text if sample.messages and sample.messages[-1].role == "assistant" else ""
    answer = (sample.answer or "").strip()
    answer = boxed(answer) or answer
    long = not answer or kind(answer) not in VERIFIABLE
    if long:
        final = _FINAL.search(answer) or _FINAL.search(said)
        answer = boxed(said) or (final[1] if final else "") or answer or said.strip()
    aliases = [*sample.aliases, *(one for one in spellings(answer) if one not in sample.aliases)]
    if answer == sample.answer and aliases == sample.aliases:
        return sample
    return sample.model_copy(update={"answer": answer or None, "aliases": aliases})


def fault(sample: Sample, rule: Reward, opens: Opens, answer_words: int) -> Fault | None:
    """What keeps a sample from being a task; None when nothing does. `answer_words`: most words of an answer."""
    return _asks(sample) or _answered(sample, rule, answer_words) or _shown(sample, opens)


def question_of(sample: Sample) -> str:
    """What is asked, without the instruction to box the answer."""
    text = next((message.text for message in sample.messages if message.role == "user"), "")
    bare = plainly(text)
    return (text if bare is None else bare).strip()


def contradicting(samples: Sequence[Sample]) -> dict[int, str]:
    """The places of samples that ask one thing of one picture and answer it differently, with the reason."""
    asked: dict[tuple[object, ...], list[int]] = defaultdict(list)
    for place, sample in enumerate(samples):
        asked[tuple(sample.images), normalise(question_of(sample))].append(place)
    found: dict[int, str] = {}
    for places in asked.values():
        first = samples[places[0]]
        if not all(_agree(first, samples[place]) for place in places[1:]):
            said = " and ".join(sorted({repr(samples[place].answer) for place in places}))[:200]
            found |= dict.fromkeys(places, f"the same question is answered {said}")
    return found


def _agree(one: Sample, other: Sample) -> bool:
    mine, theirs = (one.answer or "", *one.aliases), (other.answer or "", *other.aliases)
    return any(same(a, b) for a in mine for b in theirs)


def _asks(sample: Sample) -> Fault | None:
    roles = [message.role for message in sample.messages]
    if roles[:1] == ["system"]:
        roles = roles[1:]
    if not roles:
        return Fault("no_question", "has no messages")
    if roles not in (["user"], ["user", "assistant"]):
        return Fault("turns", "is not a single question")
    if not normalise(question_of(sample)):
        return Fault("no_question", "its question is empty", defect=True)
    return None


def _answered(sample: Sample, rule: Reward, answer_words: int) -> Fault | None:
    answer = sample.answer or ""
    what = kind(answer, answer_words)
    if what == "empty":
        return Fault("no_answer", "has no reference answer")
    if what not in VERIFIABLE:
        return Fault("unverifiable", f"its answer is a {what}, which is compared {COMPARED[what]}: {answer[:60]!r}")
    try:
        right, wrong, nothing = (rule(text, sample) for text in (f"\\boxed{{{answer}}}", f"\\boxed{{{_STRANGE}}}", ""))
    except Exception as error:
        return Fault("verifier", f"rl.reward fails at it: {type(error).__name__}: {error}", defect=True)
    for value in (right, wrong, nothing):
        if not math.isfinite(value):
            return Fault("verifier", f"rl.reward gives {value} at it: mend the function", defect=True)
    if not right > 0:
        return Fault("verifier", f"rl.reward does not hold its own answer {answer[:60]!r} for right", defect=True)
    if wrong > 0 or nothing > 0:
        return Fault("verifier", "rl.reward holds any answer for right", defect=True)
    return _told(sample, answer, what)


def _told(sample: Sample, answer: str, what: str) -> Fault | None:
    """An answer that the prompt gives away: in a box, behind "answer:", or, where it is a name, anywhere in a question
    that offers no choice. Numbers, "yes" and letters stand in questions for other reasons."""
    asked = question_of(sample)
    told = boxed(asked) or (found["told"].strip(" .：:") if (found := _TOLD.search(asked)) else "")
    known = [one for one in (answer, *sample.aliases) if normalise(one)]
    if told and any(same(told, one) for one in known):
        return Fault("told", f"its question gives the answer: {told[:60]!r}", defect=True)
    if what not in ("word", "phrase", "date") or _CHOICE.search(asked):
        return None
    text = f" {normalise(_QUOTED.sub(' ', asked))} "  # what is quoted is worked on, not given away
    for one in known:
        plain = normalise(one)
        edge = r"(?<![^\W_])" if plain.isascii() else ""
        if len(plain) > 1 and re.search(edge + re.escape(plain) + (r"(?![^\W_])" if edge else ""), text):
            return Fault("told", f"its answer {one[:60]!r} stands in its question", defect=True)
    return None


def _shown(sample: Sample, opens: Opens) -> Fault | None:
    prompt = [message for message in sample.messages if message.role != "assistant"]
    shown = [place for message in prompt for part in message.content for place in part.shows]
    if any(place >= len(sample.images) or place < 0 for place in shown):
        return Fault("picture", "its question shows a picture that it does not have", defect=True)
    if set(shown) != set(range(len(sample.images))):
        return Fault("picture", "it has a picture that its question does not show", defect=True)
    for sha in sample.images:
        try:
            opens(sha)
        except (ValueError, OSError) as error:
            return Fault("picture", f"a picture cannot be opened: {error}", defect=True)
    return None
