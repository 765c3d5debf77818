"""What clients of sessions say, checked: the bodies of the HTTP routes and the messages of a WebSocket."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from open4ov.engine.request import Request
from open4ov.engine.serving.chat import ChatMessage, ChatRequest, ImagePart, ImageUrl, StreamOptions
from open4ov.engine.serving.faults import Refused

STAND_IN = ChatMessage(role="user", content="?")
"""Instead of the question that is still to come"""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Open(ChatRequest):
    """A session's options, as those of a chat completion. `messages`: the conversation so far, if there is one."""

    messages: Annotated[list[ChatMessage], Field(max_length=1000, default_factory=list)]


class Image(_Strict):
    """A picture as a data URL."""

    url: str


class Text(_Strict):
    """More of the transcript, or all of the turn's transcript as it is understood now."""

    append: str = ""
    revise: str | None = None

    @model_validator(mode="after")
    def _one(self) -> Text:
        if len(self.model_fields_set) != 1:
            raise ValueError("give either append or revise")
        return self


class Commit(_Strict):
    """How the answer is to come."""

    stream: bool = False
    stream_options: StreamOptions | None = None


class OpenEvent(Open):
    type: Literal["open"]


class ImageEvent(Image):
    type: Literal["image"]


class TextEvent(Text):
    type: Literal["text"]

    @model_validator(mode="after")
    def _one(self) -> TextEvent:
        if len(self.model_fields_set) != 2:
            raise ValueError("give either append or revise")
        return self


class CommitEvent(_Strict):
    type: Literal["commit"]
    stream_options: StreamOptions | None = None


class BareEvent(_Strict):
    type: Literal["cancel", "close"]


class _Kind(BaseModel):
    type: Literal["open", "image", "text", "commit", "cancel", "close"]


Event = OpenEvent | ImageEvent | TextEvent | CommitEvent | BareEvent
EVENTS: dict[str, type[Event]] = {
    "open": OpenEvent,
    "image": ImageEvent,
    "text": TextEvent,
    "commit": CommitEvent,
    "cancel": BareEvent,
    "close": BareEvent,
}


def event(text: str) -> Event:
    """A message of a WebSocket. Raises ValidationError."""
    return EVENTS[_Kind.model_validate_json(text).type].model_validate_json(text)


def with_a_question(asked: Open) -> ChatRequest:
    """A chat completion of the conversation so far, by which all of it is checked."""
    if asked.messages and asked.messages[-1].role == "user":
        raise Refused("the last message must not be the user's: append its text and images", "messages")
    if asked.n != 1:
        raise Refused("a session gives one answer at a time, which joins the conversation", "n")
    if asked.stream or asked.stream_options is not None:
        raise Refused("whether an answer is streamed is said at commit", "stream")
    return asked.model_copy(update={"messages": [*asked.messages, STAND_IN]})


def without_the_question(prepared: Request) -> Request:
    return replace(prepared, messages=prepared.messages[:-1])


def with_image(asked: Open, url: str) -> ChatRequest:
    """A chat completion of one picture, by which it is checked and decoded."""
    part = ImagePart(type="image_url", image_url=ImageUrl(url=url))
    return asked.model_copy(update={"messages": [ChatMessage(role="user", content=[part])]})


def answer_options(asked: Open, commit: Commit) -> ChatRequest:
    if commit.stream_options is not None and not commit.stream:
        raise Refused("stream_options needs stream: true", "stream_options")
    return asked.model_copy(update={"stream": commit.stream, "stream_options": commit.stream_options})
