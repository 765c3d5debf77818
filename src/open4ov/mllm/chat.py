"""A conversation with an endpoint, answered in the model's own words: for evaluating the model behind it.

Unlike `openai.py`, which wants JSON of a schema and asks again until it fits, an answer is taken as it comes: cut off,
empty or refusing, it is what the model says. Turns, tries and faults are those of `line.py`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from open4ov.mllm import reply, tokens
from open4ov.mllm.ask import AnswerError
from open4ov.mllm.asked import Picture
from open4ov.mllm.budget import Usage
from open4ov.mllm.desk import Desk
from open4ov.mllm.line import Line
from open4ov.mllm.question import longest
from open4ov.mllm.showing import Showing
from open4ov.recipe_providers import ProviderSection
from open4ov.sample import Message


@dataclass(frozen=True)
class Said:
    """A response; `finish`: how it ended ("stop", "length", ...); `tokens`: its length by the endpoint's own count."""

    text: str
    finish: str
    tokens: int | None


class ChatLine(Line):
    """Raises `ProviderError` when built without a model or a key, and when the endpoint refuses to serve."""

    def __init__(self, settings: ProviderSection, where: str, desk: Desk | None = None) -> None:
        super().__init__(settings, where, desk)
        self._showing = Showing(settings)

    def say(
        self,
        messages: Sequence[Message],
        pictures: Sequence[Picture],
        max_tokens: int,
        temperature: float = 0.0,
        seed: int | None = None,
    ) -> Said:
        """What the model answers. A video is sent as its frames. Raises `AnswerError` for this question,
        `ProviderError` for all, `ImageError` for a picture that cannot be read."""
        shown = [self._showing.of(picture) for picture in pictures]
        sent = [
            {"role": message.role, "content": _content(message, [one.url for one in shown])} for message in messages
        ]
        body: dict[str, Any] = {"model": self._model, "messages": sent, "temperature": temperature}
        body |= longest(self._settings.model_copy(update={"max_tokens": max_tokens}))
        if seed is not None:
            body["seed"] = seed
        words = "".join(message.text for message in messages)
        read = tokens.MESSAGE * (len(messages) + 1) + sum(
            tokens.of_image(self._settings.image_tokens, *one.size) for one in shown
        )
        most = Usage(tokens.bound(words) + read, max_tokens)
        charged = Usage(tokens.guess(words) + read, 0, 1)

        def create() -> tuple[Any, Usage]:
            found: Any = self._client.post("/chat/completions", cast_to=object, body=body)
            found = json.loads(found) if isinstance(found, str) else found
            return found, reply.usage(found) or charged

        try:
            completion, took = self.send("evaluation", most, create, charged)
        except AnswerError:
            raise
        except Exception as error:
            ended = self.ended(error)
            if ended is not error:
                raise ended from error
            raise
        return self._said(completion, None if took.estimated else took.output)

    def _said(self, completion: Any, length: int | None) -> Said:
        try:
            choice = completion["choices"][0]
            text = choice["message"].get("content") or choice["message"].get("refusal") or ""
            if not isinstance(text, str):
                raise TypeError
            return Said(text, str(choice.get("finish_reason") or ""), length)
        except (AttributeError, IndexError, TypeError, KeyError):
            raise AnswerError(f"{self._where}: the reply holds no message", "empty") from None


def _content(message: Message, urls: Sequence[str]) -> Any:
    if all(part.type == "text" for part in message.content):
        return message.text
    parts: list[dict[str, Any]] = []
    for part in message.content:
        if part.type == "text":
            parts.append({"type": "text", "text": part.text or ""})
        else:
            parts += [{"type": "image_url", "image_url": {"url": urls[index]}} for index in part.shows]
    return parts
