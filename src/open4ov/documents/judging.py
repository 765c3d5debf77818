"""Which candidates stay: those whose text is sound, that need their picture, and that the picture answers.

By rule first. Then, where a model plays the role `documents`, a second look at text and picture, and the question put
twice, with the picture and without (paper §4.1.1, §4.1.2): answered without it, it is no question about a picture.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from open4ov.answers import agrees, normalise, number, words
from open4ov.documents.screening import text_defects
from open4ov.mllm.answers import Read, Screened
from open4ov.mllm.ask import AnswerError, Asker, Picture, Prompt, Request
from open4ov.sample import Sample, Step

ROLE = "documents"
PROMPTS = ("documents", "documents_read", "documents_screen")
MAX_ANSWER_WORDS = 30
_BY_TEXT = re.compile(
    r"\baccording to the (?:text|caption|passage|document|paragraph|title)\b|"
    r"\b(?:in|from) the (?:text|caption|passage)\b|"
    r"\bthe (?:text|caption|passage|document) (?:says|states|mentions|describes)\b|"
    r"根据(?:上文|下文|文中|短文|正文|标题|文字)",
    re.IGNORECASE,
)


def reject(sample: Sample, by: str, reason: str) -> None:
    """Notes why a sample does not stay; the first to say so is `rejected_by`."""
    sample.extra.setdefault("rejected_by", by)
    sample.extra.setdefault("reasons", []).append(reason)


def rejected(sample: Sample) -> bool:
    return "rejected_by" in sample.extra


def by_rules(sample: Sample, asked: bool) -> None:
    """Rejects what is broken or needs no picture. `asked`: a model will say whether an unclear one needs it."""
    question, answer = sample.messages[0].text, sample.answer
    if not answer:
        reject(sample, "rules", "no answer: the document gives none")
        return
    for fault in sample.extra.get("faults", ()):
        reject(sample, "rules", f"answer: {fault}")
    for text in (question, sample.messages[-1].text if sample.extra["origin"] == "asked" else answer):
        for defect in text_defects(text):
            if defect.verdict == "drop":
                reject(sample, "rules", defect.reason)
            else:
                sample.extra.setdefault("flags", []).append(defect.reason)
    if len(words(question)) < 3:
        reject(sample, "rules", "question: fewer than three words")
    if len(words(answer)) > MAX_ANSWER_WORDS:
        reject(sample, "rules", f"answer: more than {MAX_ANSWER_WORDS} words, which no verifier can compare")
    if _BY_TEXT.search(question):
        reject(sample, "rules", "text only: asks about the text, not the picture")
    if _given_away(sample):
        reject(sample, "rules", "text only: the question contains its answer")
    if sample.extra.get("points_nowhere"):
        if asked:
            sample.extra.setdefault("flags", []).append("does not mention its picture")
        else:
            reject(sample, "rules", "text only: does not mention its picture, and no model says that it needs it")


def _given_away(sample: Sample) -> bool:
    """Whether the answer stands in an open question. Choices and numbers (they may be data) do not count."""
    if sample.extra.get("options") or number(normalise(sample.answer or "")) is not None:
        return False
    question, answer = words(sample.messages[0].text), words(sample.answer or "")
    if len("".join(answer)) < 4 or " or " in sample.messages[0].text or "还是" in sample.messages[0].text:
        return False
    return any(question[i : i + len(answer)] == answer for i in range(len(question) - len(answer) + 1))


def by_model(
    asker: Asker,
    samples: Sequence[Sample],
    pictures: Callable[[Sample], Sequence[Picture]],
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Screens and ablates what the rules let pass. A question without a usable answer is rejected, with that reason."""
    left = [sample for sample in samples if not rejected(sample)]
    screens = [
        Request(
            ROLE,
            Prompt(
                "documents_screen",
                {"question": sample.messages[0].text, "answer": sample.answer, "caption": sample.extra["caption"]},
            ),
            pictures(sample),
            Screened,
        )
        for sample in left
    ]
    for sample, said in zip(left, asker.ask_many(screens, progress), strict=True):
        _note(sample, asker.step(ROLE, "documents_screen", said))
        if isinstance(said, AnswerError):
            reject(sample, "unscreened", str(said))
            continue
        found = [kind for kind in ("ocr", "order", "self_talk", "mismatch") if said[kind]]
        if found:
            reject(sample, "screen", f"{', '.join(found)}: {said['reason']}")
    left = [sample for sample in left if not rejected(sample)]
    reads = [_read(sample, pictures(sample), shown) for sample in left for shown in (True, False)]
    answers = asker.ask_many(reads, progress)
    for sample, seen, blind in zip(left, answers[::2], answers[1::2], strict=True):
        for said, place in ((seen, "with the picture"), (blind, "without the picture")):
            _note(sample, asker.step(ROLE, "documents_read", said), place)
        if isinstance(seen, AnswerError) or isinstance(blind, AnswerError):
            reject(sample, "unread", str(seen if isinstance(seen, AnswerError) else blind))
            continue
        sample.extra["ablation"] = {"with_picture": seen["answer"], "without_picture": blind["answer"]}
        if _right(sample, blind["answer"]):
            reject(sample, "ablation", "text only: answered without the picture")
        elif not _right(sample, seen["answer"]):
            if sample.extra["origin"] == "asked":
                reject(sample, "ablation", "the picture does not give the answer when asked again")
            else:  # a printed answer outranks a model that fails at it
                sample.extra.setdefault("flags", []).append("unconfirmed: the model answers otherwise")


def _note(sample: Sample, step: Step | None, place: str | None = None) -> None:
    if step is not None:
        step.place = place
        sample.steps = [*sample.steps, step]


def _read(sample: Sample, pictures: Sequence[Picture], shown: bool) -> Request:
    values = {"question": sample.messages[0].text, "with_picture": shown}
    return Request(ROLE, Prompt("documents_read", values), pictures if shown else (), Read)


def _right(sample: Sample, answer: str | None) -> bool:
    return bool(answer) and agrees(answer or "", sample.answer or "", sample.aliases)
