"""The record of the house: one `Sample` flows from the first image to the last report.

Every stage adds to a sample and hands on what it does not know: unknown keys survive reading and writing.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

Role = Literal["system", "user", "assistant"]
Axis = Literal["domain", "ability"]
Mastery = Literal["mastered", "partial", "unmastered"]


class _Record(BaseModel):
    model_config = ConfigDict(extra="allow")


class Part(_Record):
    """One piece of a message: text, a reference to `Sample.images[index]`, or a video.

    A video's frames are the images from `index` on, as many as it has `times`: the second at which each was taken.
    """

    type: Literal["text", "image", "video"]
    text: str | None = None
    index: int | None = None
    times: list[float] | None = None

    @property
    def shows(self) -> range:
        """The places in `Sample.images` that the piece refers to; none for text."""
        if self.type == "text" or self.index is None:
            return range(0)
        return range(self.index, self.index + (1 if self.type == "image" else len(self.times or ())))


class Message(_Record):
    """One turn of a conversation."""

    role: Role
    content: list[Part]

    @property
    def text(self) -> str:
        """The message's text parts, joined."""
        return "".join(part.text or "" for part in self.content if part.type == "text")


class Label(_Record):
    """A place in the label tree (paper §2.2.1). `score` is the matcher's relevance, higher is closer."""

    axis: Axis
    l1: str
    l2: str | None = None
    score: float | None = None


class Vote(_Record):
    """One judge's 0 or 1 on an (image, topic, question) triplet (paper §2.2.4).

    `score` None is an abstention: the judge answered that it cannot tell; or, with `missing`, no vote at all: the
    judge gave no usable answer, and `reason` says why.
    """

    judge: str
    score: Literal[0, 1] | None
    reason: str = ""
    missing: bool = False

    @property
    def said(self) -> Literal["yes", "no", "abstain", "missing"]:
        if self.score is None:
            return "missing" if self.missing else "abstain"
        return "yes" if self.score else "no"


class Step(_Record):
    """One thing that was done to a sample. Only `stage` must be there; what a stage knows beyond these it adds.

    `by`: the model, format or function that did it, `provider`: its name in the recipe; `prompt`: the template's name
    and version; `input` and `output` (or `tokens`, where only their sum is known): tokens of the answer, `estimated`
    where the endpoint did not count them; `cost`: money in the currency of the recipe's prices; `among`: an answer for
    that many samples, of which all four are this one's part; `file` and `place`: where it was read. `kept`: the answer
    was found among the kept ones; only while samples are made (mllm/provenance.py). What is None is not written.
    """

    stage: str
    by: str | None = None
    provider: str | None = None
    prompt: str | None = None
    input: int | None = None
    output: int | None = None
    tokens: int | None = None
    estimated: bool | None = None
    among: int | None = None
    cost: float | None = None
    kept: bool | None = None
    file: str | None = None
    place: str | None = None
    note: str | None = None

    @property
    def known_tokens(self) -> int | None:
        """Input and output together; None where they are not known."""
        if self.input is None and self.output is None:
            return self.tokens
        return (self.input or 0) + (self.output or 0)

    @model_serializer(mode="wrap")
    def _known(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: value for key, value in handler(self).items() if value is not None}


class Sample(_Record):
    """One conversation about zero or more images, and all that is known about it.

    `images` are SHA-256 hex digests into an `ImageStore`; image parts of messages index into them.
    `answer` is the short reference a verifier compares with; `aliases` are other right answers.
    `scene` is the annotation that came with the image (None for images without one).
    `lineage` are the ids of the samples it was made from, `steps` what was done to it in order (`open4ov data trace`).
    `extra["fields"]` are an imported row's fields that we have no place for; an export writes them back.
    """

    id: str
    source: str
    split: Literal["train", "val", "test"] = "train"
    task: str
    language: Literal["en", "zh"] = "en"
    images: list[str] = Field(default_factory=list)
    messages: list[Message] = Field(default_factory=list)
    answer: str | None = None
    aliases: list[str] = Field(default_factory=list)
    labels: list[Label] = Field(default_factory=list)
    topics: list[str] = Field(default_factory=list)
    density: dict[str, float] = Field(default_factory=dict)
    budget: int | None = None
    votes: list[Vote] = Field(default_factory=list)
    checks: dict[str, bool] = Field(default_factory=dict)
    mastery: Mastery | None = None
    pass_rate: float | None = None
    rejected: list[Message] | None = None
    scene: dict[str, Any] | None = None
    lineage: list[str] = Field(default_factory=list)
    steps: list[Step] = Field(default_factory=list[Step])
    extra: dict[str, Any] = Field(default_factory=dict)


def user(text: str, images: int = 0, first_image: int = 0) -> Message:
    """A user message: `images` image parts (indices from `first_image`), then the text."""
    parts = [Part(type="image", index=first_image + i) for i in range(images)]
    return Message(role="user", content=[*parts, Part(type="text", text=text)])


def video(text: str, times: list[float], first_image: int = 0) -> Message:
    """A user message about a video whose frames are the images from `first_image` on, taken at `times` (seconds)."""
    shown = Part(type="video", index=first_image, times=times)
    return Message(role="user", content=[shown, Part(type="text", text=text)])


def assistant(text: str) -> Message:
    """A response of text only."""
    return Message(role="assistant", content=[Part(type="text", text=text)])


def without_images(message: Message) -> Message:
    """The message with its text parts only."""
    return message.model_copy(update={"content": [part for part in message.content if part.type == "text"]})


def mastery_of(rate: float | None) -> Mastery | None:
    """mastered: always right; unmastered: never; partial: in between; None: not graded (paper §3.2.2)."""
    if rate is None:
        return None
    return "mastered" if rate >= 1 else "unmastered" if rate <= 0 else "partial"


def content_id(*parts: Any) -> str:
    """A stable 16-hex-digit name for what it is given (anything JSON can hold)."""
    blob = json.dumps(parts, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=str)
    return hashlib.sha256(blob.encode()).hexdigest()[:16]
