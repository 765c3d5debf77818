"""What a model said, and whether it can be used: the faults of replies that came through, each with its kind.

Kinds: `empty`, `refusal`, `cut` (longer than max_tokens), `truncated` (the JSON breaks off), `not_json`, `schema` (JSON
of another shape), `content` (fits the schema, yet the question's own check objects), `huge`, `echo` (repeats the key).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cache
from typing import Any

from openai.types.shared_params import ResponseFormatJSONSchema
from pydantic import BaseModel, ValidationError

from open4ov.mllm.ask import Request
from open4ov.mllm.budget import Usage
from open4ov.mllm.failure import SECRET

LONGEST = 100_000
"""Characters of an answer that is worth sending back"""
_REFUSAL = re.compile(
    r"(i'm|i am) (very )?sorry|i apologi[sz]e|i (can't|cannot|can not|am unable|'m unable|won't)|as an ai|"
    r"抱歉|对不起|我无法|我不能|作为(一个)?(人工智能|ai)",
    re.IGNORECASE,
)


class Misfit(Exception):
    """A reply that is no usable answer. `repair`: whether asking again may help; `text` is then sent back with it.

    The reason quotes nothing of the reply but the names of fields.
    """

    def __init__(self, kind: str, reason: str, *, repair: bool = False, text: str = "") -> None:
        super().__init__(reason)
        self.kind, self.reason, self.repair, self.text = kind, reason, repair, text


@dataclass(frozen=True)
class Schema:
    """A schema as the endpoint is told it, and as text for keys and counts."""

    response_format: ResponseFormatJSONSchema
    text: str


@cache
def schema(model: type[BaseModel]) -> Schema:
    """The strict JSON schema of an answer's model."""
    described = model.model_json_schema()
    return Schema(
        {"type": "json_schema", "json_schema": {"name": model.__name__, "schema": described, "strict": True}},
        json.dumps(described, sort_keys=True),
    )


def text(completion: Any, secret: str) -> str:
    """The text of a chat completion, as JSON data. Raises Misfit for one that has none, refuses, or was cut. Nothing
    about its form is taken for granted: the client passes on what an endpoint sends."""
    try:
        choice = completion["choices"][0]
        message, finish = choice["message"], choice.get("finish_reason")
        said, refused = message.get("content"), message.get("refusal")
    except (AttributeError, IndexError, TypeError, KeyError):
        raise Misfit("empty", "the reply holds no message", repair=True) from None
    if refused or finish == "content_filter":
        raise Misfit("refusal", "the model refuses to answer")
    if finish == "length":
        raise Misfit("cut", "the answer is longer than allowed (data.providers.*.max_tokens)")
    if not isinstance(said, str) or not said.strip():
        raise Misfit("empty", "the answer is empty", repair=True)
    if len(said) > LONGEST:
        raise Misfit("huge", f"the answer is longer than {LONGEST} characters")
    if len(secret) >= SECRET and secret in said:
        raise Misfit("echo", "the answer repeats the endpoint's key, so it is not kept")
    return said


def bare(said: str) -> str:
    """A text without the reasoning in front of it (up to `</think>`) and the Markdown fence around it, as endpoints
    that know no structured output write them."""
    text = said.strip()
    if text[:1] not in ("{", "[", "`"):
        text = text.partition("</think>")[2].strip() or text
    if text.startswith("```") and text.endswith("```") and "\n" in text:
        text = text.partition("\n")[2].removesuffix("```").strip()
    return text


def fit(said: str, request: Request) -> dict[str, Any]:
    """The answer in a text; one fence or block of reasoning around it does no harm. Raises Misfit when it does not fit
    the request's schema, or its check."""
    text = bare(said)
    try:
        answer = request.schema.model_validate_json(text).model_dump()
    except ValidationError as error:
        detail = error.errors(include_url=False, include_input=False, include_context=False)[0]
        reason = f"{'.'.join(str(part)[:80] for part in detail['loc']) or 'JSON'}: {detail['msg'][:200]}"
        kind = "schema"
        if detail["type"] == "json_invalid":
            kind = "truncated" if "EOF" in detail["msg"] and text[:1] in ("{", "[") else "not_json"
            if kind == "not_json" and said.lstrip()[:1] not in ("{", "[") and ("```" in said or "<think>" in said):
                reason += "; write the JSON by itself, without a Markdown fence or reasoning"
            if kind == "not_json" and _REFUSAL.search(said[:400]):
                raise Misfit("refusal", "the model refuses to answer", repair=True, text=said) from None
        raise Misfit(kind, reason, repair=True, text=said) from None
    objection = request.check(answer) if request.check else None
    if objection:
        raise Misfit("content", objection, repair=True, text=said)
    return answer


def usage(completion: Any) -> Usage | None:
    """The endpoint's own count of tokens; None where it gives none that can be right."""
    try:
        read, written = completion["usage"]["prompt_tokens"], completion["usage"]["completion_tokens"]
    except (AttributeError, IndexError, TypeError, KeyError):
        return None
    if not all(type(one) is int and 0 <= one < 2**31 for one in (read, written)):
        return None
    return Usage(read, written)
