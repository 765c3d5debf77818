"""Multiple choice -> open cloze (paper §4.1.1: "to mitigate reward hacking, all multiple-choice items are converted to
open cloze (fill-in-the-blank) format").

The right option's text becomes the answer, and the options go. What makes no sense without its options, or has more
than one right answer then, is kept out with its reason (`REASONS`): better a task less than one that rewards luck.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from open4ov.answers import boxed, normalise, same
from open4ov.rl.pool import choices as lists
from open4ov.rl.pool import cloze_rules as rules
from open4ov.rl.pool.answer_types import PHRASE_WORDS, kind
from open4ov.sample import Message, Part, Sample, Step, assistant, content_id

REASONS = {
    "pictures": "its options are pictures, or stand in one",
    "multiple": "several options are right",
    "no_option": "its answer is none of its options",
    "equal": "two of its options are equal for the verifier",
    "labels": "its options are names of things in the picture, no answers by themselves",
    "refers": "an option speaks of the others (none of the above, both A and B), or says that nothing can be said",
    "among": "it asks about its options (which of the following)",
    "negated": "it asks for what does not hold, and outside its options many things do not",
    "statement": "it asks which statement holds",
    "best": "it asks for the best of its options (closest to, most likely)",
    "bare": "it compares its options and nothing else",
    "about": "it asks for about how much, and only its options say how exactly",
    "ranges": "its options are ranges",
    "combination": "its options are orders or combinations of things",
    "sentences": "its options are sentences",
    "long": "its answer is too long for a verifier to compare",
    "blank": "its blank can be filled in with many words, and no picture says with which",
    "no_question": "nothing is asked without its options",
    "numbered": "its options are numbered, so that its answer may be a number or a place",
}
DEFECTS = frozenset(["no_option", "no_question"])
"""Reasons that are a fault of the sample; the others are of its kind"""

NUMERIC = ("number", "number_unit", "expression")
OPTION_WORDS = 8
"""Words of an option from which it is a sentence (twice as many Chinese characters)"""


@dataclass(frozen=True)
class Cloze:
    """The open question, its answer, and what it was: the options by letter and the right one's."""

    question: str
    answer: str
    letter: str
    options: Mapping[str, str]


@dataclass(frozen=True)
class Closed:
    """Why a multiple-choice question stays out: a key of `REASONS`, and what of it shows that."""

    reason: str
    detail: str = ""

    @property
    def text(self) -> str:
        return REASONS[self.reason] + (f": {self.detail[:80]!r}" if self.detail else "")


def convert(
    question: str, answer: str, beside: Mapping[str, str] | None = None, phrase_words: int = PHRASE_WORDS
) -> Cloze | Closed | None:
    """A multiple-choice question as an open one; None for a question that has no options.

    `beside`: options that came beside the text; `phrase_words`: most words of an answer.
    """
    answer = boxed(answer) or answer.strip()
    found = lists.listed(question)
    if found is None and beside:
        found = lists.Listed(question.strip(), dict(beside))
    if found is None:
        return _without_options(question, answer)
    stem = _stem(found)
    if closed := _by_options(found.options, question):
        return closed
    letter = _letter(answer, found.options)
    if isinstance(letter, Closed):
        return letter
    right = found.options[letter]
    if closed := _by_stem(stem, found.options) or _by_answer(right, found.options, phrase_words):
        return closed
    return Cloze(stem, right, letter, found.options)


def opened(sample: Sample, phrase_words: int = PHRASE_WORDS) -> Sample | Closed:
    """The sample as an open task: as it is where it lists no options; `Closed` where it makes no sense without them.

    Pictures stay where they are. A worked response keeps its working, with the new answer in its box; one that is no
    more than the letter, or names it, becomes the boxed answer. `extra["cloze"]` has the options and the letter.
    """
    place = next((i for i, message in enumerate(sample.messages) if message.role == "user"), None)
    if place is None or sample.answer is None:
        return sample
    if (done := _opened_before(sample, phrase_words)) is not None:
        return done
    text = "".join(rules.PICTURE if p.type != "text" else p.text or "" for p in sample.messages[place].content)
    lead = len(text) - len(text.lstrip(rules.PICTURE))
    found = convert(text[lead:], sample.answer, lists.given(sample.extra.get("options")), phrase_words)
    if found is None:
        return sample
    if isinstance(found, Closed):
        return found
    if not sample.images and rules.GAP.search(found.question) and kind(found.answer) in ("word", "phrase"):
        return Closed("blank", found.question)
    shown = [part for part in sample.messages[place].content if part.type != "text"]
    question = text[:lead] + found.question
    if question.count(rules.PICTURE) != len(shown):
        return Closed("pictures")
    messages = list(sample.messages)
    messages[place] = messages[place].model_copy(update={"content": _parts(question, shown)})
    if len(messages) > place + 1:
        messages[place + 1] = _response(messages[place + 1], found)
    aliases = [one for one in sample.aliases if _letter(one, found.options) not in found.options]
    return sample.model_copy(
        update={
            "id": content_id("cloze", sample.id, found.question, found.answer),
            "messages": messages,
            "answer": found.answer,
            "aliases": aliases,
            "lineage": [*sample.lineage, sample.id],
            "steps": [*sample.steps, Step(stage="rl_pool", note="multiple choice, asked openly")],
            "extra": {**sample.extra, "cloze": {"letter": found.letter, "options": dict(found.options)}},
        }
    )


def _opened_before(sample: Sample, phrase_words: int) -> Sample | Closed | None:
    """A document's question that was asked openly when it was made (documents/samples.py), by the rules here too; None
    for others."""
    options, letter = lists.given(sample.extra.get("options")), sample.extra.get("letter")
    if options is None or not isinstance(letter, str) or letter not in options or lists.listed(_text(sample)):
        return None
    found = convert(_text(sample), letter, options, phrase_words)
    if isinstance(found, Closed):
        return found
    return sample.model_copy(update={"extra": {**sample.extra, "cloze": {"letter": letter, "options": options}}})


def _without_options(question: str, answer: str) -> Closed | None:
    """A letter as the answer, and no options in the text: they are in the picture, unless a letter is asked for."""
    if (found := lists.numbered(question)) and answer.strip(" ().") in found.options and not _further(found):
        return Closed("numbered")
    letter = len(answer.strip("()（）. ")) == 1 and answer.strip("()（）. ") in lists.LETTERS
    if letter and not rules.ASKS_LETTER.search(question):
        return Closed("pictures")
    return None


def _further(found: lists.Listed) -> bool:
    """Numbered lines with a question behind them are steps, not options."""
    return bool(found.after) or any("?" in one or "？" in one for one in found.options.values())


def _stem(found: lists.Listed) -> str:
    stem = rules.INSTRUCTION.sub("", found.stem).strip() if found.stem else ""
    stem = rules.INSTRUCTION.sub("", stem).strip()  # "Hint: ..." may have hidden "Question:"
    below = rules.INSTRUCTION.sub("", found.after).strip()
    if re.search(r"[?？]", below):  # the question stands behind its options
        stem = f"{stem}\n{below}".strip()
    if rules.BLANK.search(stem):
        blank = "" if re.search(r"[?？]", stem) else "____"
        stem = rules.ALONE.sub(blank, stem)
        stem = rules.IN_FORMULA.sub(f"$ {blank}" if stem.count("$") % 2 == 0 else blank, stem)
        stem = rules.BLANK.sub(blank, stem).strip()
    return stem


def _by_options(options: Mapping[str, str], question: str) -> Closed | None:
    texts = list(options.values())
    if rules.MULTIPLE.search(question):
        return Closed("multiple")
    if any(not text or rules.PICTURE in text or rules.SHOWN.match(text) for text in texts):
        return Closed("pictures")
    for place, text in enumerate(texts):
        if twin := next((other for other in texts[:place] if same(text, other)), None):
            return Closed("equal", f"{twin} = {text}")
    if refers := next((text for text in texts if rules.REFERS.search(text)), None):
        return Closed("refers", refers)
    return None


def _letter(answer: str, options: Mapping[str, str]) -> str | Closed:
    """Which option an answer names: by its text, or by its letter."""
    if named := next((key for key, text in options.items() if len(answer) > 1 and same(answer, text)), None):
        return named
    if rules.SEVERAL.match(answer):
        return Closed("multiple", answer)
    found = rules.ANSWER.match(answer)
    rest = found["rest"].strip(" .。") if found else ""
    if found and (letter := found["letter"].upper()) in options and (not rest or same(rest, options[letter])):
        return letter
    if len(answer) == 1 and (one := next((key for key, text in options.items() if same(answer, text)), None)):
        return one
    return Closed("no_option", answer)


def _by_stem(stem: str, options: Mapping[str, str]) -> Closed | None:
    bare = stem.replace(rules.PICTURE, " ").strip()
    if not normalise(bare.replace("_", "")):
        return Closed("no_question")
    texts = list(options.values())
    if all(rules.ORDER.match(text) for text in texts):
        return Closed("combination", texts[0])
    if all(rules.LABEL.match(text) for text in texts):
        return Closed("labels", texts[0])
    for reason, pattern in (
        ("negated", rules.NEGATED),
        ("among", rules.AMONG),
        ("statement", rules.STATEMENT),
        ("best", rules.BEST),
    ):
        if found := pattern.search(bare):
            return Closed(reason, found[0])
    if rules.POINTS.search(bare) and any(len(text) < 2 for text in texts):
        return Closed("pictures")
    if (found := rules.BARE.search(bare)) and any(kind(text) in NUMERIC for text in texts):
        return Closed("bare", found[0])
    if range_ := next((text for text in texts if _range(text)), None):
        return Closed("ranges", range_)
    if (found := rules.ABOUT.search(bare)) and any(kind(text) in NUMERIC for text in texts):
        return Closed("about", found[0])
    return None


def _by_answer(right: str, options: Mapping[str, str], phrase_words: int) -> Closed | None:
    if long := next((text for text in options.values() if _sentence(text)), None):
        return Closed("sentences", long)
    return Closed("long", right) if kind(right, phrase_words) == "sentence" else None


def _range(text: str) -> bool:
    """ "20-30", but neither a date nor an interval or difference in a formula."""
    return rules.RANGE.match(text) is not None and not re.search(r"[\\$=\[({]", text) and kind(text) != "date"


def _sentence(text: str) -> bool:
    chinese = len(re.findall(r"[\u3400-\u9fff]", text))
    long = chinese >= 2 * OPTION_WORDS if chinese else len(text.split()) > OPTION_WORDS
    ended = re.search(r"[.!?]$", text) is not None and len(text.split()) >= 4
    return long or ended or (chinese > 0 and re.search(r"[。！？，]", text) is not None)


def _parts(question: str, shown: Sequence[Part]) -> list[Part]:
    pictures = iter(shown)
    made: list[Part] = []
    for place, text in enumerate(question.split(rules.PICTURE)):
        if place:
            made.append(next(pictures))
        if text:
            made.append(Part(type="text", text=text))
    return made


def _response(message: Message, found: Cloze) -> Message:
    box = f"\\boxed{{{found.answer}}}"
    said = boxed(message.text)
    working = message.text[: message.text.rfind("\\boxed")] if said is not None else ""
    told = re.search(
        rf"\b(?:option|choice|answer)s?\b[^.]*\b{found.letter}\b|[(（]{found.letter}[)）]|选{found.letter}", working
    )
    return assistant(working + box if working.strip() and not told else box)


def _text(sample: Sample) -> str:
    return next((message.text for message in sample.messages if message.role == "user"), "")
