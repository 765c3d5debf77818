"""A question and an answer in fields of their own, under whatever names: tables from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from open4ov.formats import preferences
from open4ov.formats.conversations import Conversations, references, text_message
from open4ov.formats.messages import Messages
from open4ov.formats.row import Decoder, Parsed, RowError
from open4ov.sample import Part, Sample, user

FIELDS = (
    "question",
    "answer",
    "prompt",
    "chosen",
    "rejected",
    "image",
    "images",
    "messages",
    "conversations",
    "system",
    "split",
    "language",
    "licence",
)
"""What `--map COLUMN=FIELD` can name."""
_QUESTIONS = ("question", "query", "instruction", "prompt", "problem")
_ANSWERS = ("answer", "response", "output", "solution")


class Pairs:
    """The codec. A row without a question is an image without questions, as construction starts from."""

    name = "pairs"

    def decode(self, row: Mapping[str, Any]) -> Parsed:
        images, used = references(row)
        asked = next((key for key in _QUESTIONS if isinstance(row.get(key), str)), None)
        if asked is None:
            if not images:
                raise RowError("no question and no image; name its columns: --map COLUMN=question, answer or image")
            return Parsed([], images, used)
        messages = [user(row[asked], images=len(images))]
        used.add(asked)
        if isinstance(system := row.get("system"), str) and system:
            messages.insert(0, text_message("system", system))
            used.add("system")
        values: dict[str, Any] = {}
        answered = next((key for key in _ANSWERS if row.get(key) is not None), None)
        if answered is not None:
            text = row[answered]
            if not isinstance(text, str | int | float):
                raise RowError(f"its {answered} is a {type(text).__name__}, no text")
            messages.append(text_message("assistant", str(text)))
            values["answer"] = str(text)
            used.add(answered)
        return Parsed(messages, images, used, values)


def codec_of(row: Mapping[str, Any]) -> Decoder:
    """The form that a row is in, by the fields it has."""
    if (form := preferences.form_of(row)) is not None:
        return preferences.Preferences(form)
    if isinstance(row.get("messages"), list):
        return Messages()
    if isinstance(row.get("conversations"), list):
        return Conversations("sharegpt", "images") if "images" in row else Conversations("llava", "image")
    return Pairs()


def single_question(sample: Sample) -> tuple[str, str | None] | None:
    """Question and response of a sample that is one question about its images in their order; None for others."""
    if not sample.messages or len(sample.messages) > 2 or sample.messages[0].role != "user":
        return None
    question = sample.messages[0]
    answers = sample.messages[1:]
    if answers and (answers[0].role != "assistant" or any(part.type != "text" for part in answers[0].content)):
        return None
    shown = [part.index for part in question.content if part.type == "image"]
    texts = [part for part in question.content if part.type == "text"]
    in_order: list[Part] = [*(part for part in question.content if part.type == "image"), *texts]
    if question.content != in_order or shown != list(range(len(sample.images))):
        return None
    return question.text, answers[0].text if answers else None
