"""OpenAI chat completions as they come over the wire: checked, turned into the engine's requests, and answered.

Nothing of a client's is trusted: no option that is not read is accepted in silence, special tokens in text stay text,
and pictures come in by `pictures.py` only.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from open4ov.engine.grammar import Grammar, Grammars
from open4ov.engine.request import LEAST_REPETITION, Completion, Request
from open4ov.engine.service import Update
from open4ov.engine.serving.faults import Refused
from open4ov.engine.text import TokenBytes
from open4ov.errors import UserError
from open4ov.model import Processor
from open4ov.sample import Message, Part

MAX_IMAGES = 16
MAX_PARTS = 1000


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class TextPart(_Strict):
    type: Literal["text"]
    text: Annotated[str, Field(max_length=1_000_000)]


class ImageUrl(_Strict):
    url: str
    detail: Literal["auto", "low", "high"] = "auto"


class ImagePart(_Strict):
    type: Literal["image_url"]
    image_url: ImageUrl


class ChatMessage(_Strict):
    role: Literal["system", "user", "assistant"]
    content: (
        Annotated[str, Field(max_length=1_000_000)]
        | Annotated[list[TextPart | ImagePart], Field(max_length=MAX_PARTS, fail_fast=True)]
    )


class StreamOptions(_Strict):
    include_usage: bool = False


class JsonSchema(_Strict):
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")] = "schema"
    description: str | None = None
    schema_: Annotated[dict[str, Any], Field(alias="schema")]
    strict: Literal[True] | None = None


class ResponseFormat(_Strict):
    """OpenAI's: any text, any JSON object, or JSON by a schema (always followed strictly)."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class StructuredOutputs(_Strict):
    """vLLM's: one of the three."""

    json_: Annotated[dict[str, Any] | None, Field(alias="json")] = None
    regex: str | None = None
    choice: Annotated[list[str], Field(max_length=10_000)] | None = None


class ChatRequest(_Strict):
    """The options that are read, and a few that change nothing here (`user`, `metadata`, `store`,
    a schema's `description`)."""

    model: str
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=1000, fail_fast=True)]
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=10)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    top_k: Annotated[int, Field(ge=0)] = 0
    min_p: Annotated[float, Field(ge=0, le=1)] = 0.0
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    repetition_penalty: Annotated[float, Field(ge=LEAST_REPETITION, le=10)] = 1.0
    n: Annotated[int, Field(ge=1, le=64)] = 1
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: str | Annotated[list[str], Field(max_length=16)] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=20)] = 0
    ignore_eos: bool = False
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    user: str | None = None
    metadata: dict[str, str] | None = None
    store: bool | None = None


def image_urls(chat: ChatRequest) -> list[tuple[str, str]]:
    """Where each picture is to be had, in order, and its place in the request. Raises Refused for too many, and for
    those that stand where none may."""
    found: list[tuple[str, str]] = []
    for number, message in enumerate(chat.messages):
        for place, part in enumerate(message.content):
            if not isinstance(part, ImagePart):
                continue
            param = f"messages.{number}.content.{place}.image_url.url"
            if message.role != "user":
                raise Refused("only user messages may hold images", param)
            if part.image_url.detail != "auto":
                where = param.removesuffix("url") + "detail"
                raise Refused("images are read as the model's processor has it: leave detail out", where)
            if len(found) == MAX_IMAGES:
                raise Refused(f"at most {MAX_IMAGES} images", param)
            found.append((part.image_url.url, param))
    return found


def to_request(
    chat: ChatRequest, grammars: Grammars, room: int, seed: int, images: list[Image.Image], salt: str = ""
) -> Request:
    """What the engine is asked. `room`: tokens that prompt and response may have together; `seed`: when none is given;
    `images`: those of `image_urls`.

    Raises Refused.
    """
    processor = grammars.processor
    if chat.top_logprobs and not chat.logprobs:
        raise Refused("top_logprobs needs logprobs: true", "top_logprobs")
    if chat.stream_options is not None and not chat.stream:
        raise Refused("stream_options needs stream: true", "stream_options")
    if chat.messages[-1].role != "user":
        raise Refused("the last message must be the user's", "messages")
    if sum(map(_characters, chat.messages)) > room * processor.longest_token:  # tokenizing it would take minutes
        raise Refused(f"the text of all messages is more than the {room} tokens that there is room for", "messages")
    places = iter(range(len(images)))
    messages = [_message(message, places) for message in chat.messages]
    stop = (chat.stop,) if isinstance(chat.stop, str) else tuple(chat.stop or ())
    if "" in stop:
        raise Refused("an empty stop string would stop at once", "stop")
    try:
        prompt = len(processor.encode(messages, images, generate=True, pixels=False))
    except UserError as error:
        raise Refused(str(error), "messages") from None
    wanted = chat.max_completion_tokens or chat.max_tokens
    if prompt >= room or (wanted is not None and prompt + wanted > room):
        asked = f" and {wanted} of a response" if wanted else ""
        raise Refused(f"{prompt} tokens of a prompt{asked} are more than the {room} there is room for", "messages")
    return Request(
        messages,
        images,
        max_tokens=wanted or room - prompt,
        temperature=chat.temperature,
        top_k=chat.top_k,
        top_p=chat.top_p,
        n=chat.n,
        seed=seed if chat.seed is None else chat.seed,
        stop=stop,
        min_p=chat.min_p,
        repetition_penalty=chat.repetition_penalty,
        presence_penalty=chat.presence_penalty,
        frequency_penalty=chat.frequency_penalty,
        top_log_probs=chat.top_logprobs,
        ignore_eos=chat.ignore_eos,
        grammar=_grammar(chat, grammars),
        salt=salt,
    )


def _grammar(chat: ChatRequest, grammars: Grammars) -> Grammar | None:
    """What the response is bound to, if anything."""
    wanted, ours = chat.response_format, chat.structured_outputs
    ways = [] if ours is None else [way for way in (ours.json_, ours.regex, ours.choice) if way is not None]
    if ours is not None and len(ways) != 1:
        raise Refused("give one of json, regex and choice", "structured_outputs")
    if ours is not None and wanted is not None and wanted.type != "text":
        raise Refused("response_format and structured_outputs exclude one another", "structured_outputs")
    if wanted is not None and (wanted.type == "json_schema") != (wanted.json_schema is not None):
        raise Refused("type json_schema and json_schema go together", "response_format")
    param = "structured_outputs" if ours is not None else "response_format"
    if chat.ignore_eos and (ours is not None or (wanted is not None and wanted.type != "text")):
        raise Refused("what is bound to a format ends with it", "ignore_eos")
    try:
        if ours is not None and ours.json_ is not None:
            return grammars.json_schema(ours.json_)
        if ours is not None and ours.regex is not None:
            return grammars.regex(ours.regex)
        if ours is not None and ours.choice is not None:
            return grammars.choice(ours.choice)
        if wanted is not None and wanted.json_schema is not None:
            return grammars.json_schema(wanted.json_schema.schema_)
        return grammars.json_object() if wanted is not None and wanted.type == "json_object" else None
    except UserError as error:
        raise Refused(str(error), param) from None


def _characters(message: ChatMessage) -> int:
    if isinstance(message.content, str):
        return len(message.content)
    return sum(len(part.text) for part in message.content if isinstance(part, TextPart))


def _message(message: ChatMessage, places: Iterator[int]) -> Message:
    if isinstance(message.content, str):
        return Message(role=message.role, content=[Part(type="text", text=message.content)])
    parts = [
        Part(type="text", text=part.text) if isinstance(part, TextPart) else Part(type="image", index=next(places))
        for part in message.content
    ]
    return Message(role=message.role, content=parts)


def log_probs(
    processor: Processor, completion: Completion | Update, top: int, start: int = 0, end: int | None = None
) -> dict[str, Any]:
    """`choices[].logprobs` of a completion's tokens from `start` to `end`. All `bytes` together are the content's."""
    spelled = TokenBytes(processor.tokenizer)

    def entry(token: int, value: float) -> dict[str, Any]:
        text = processor.tokenizer.decode([token], skip_special_tokens=False)
        return {"token": text, "logprob": value, "bytes": list(spelled.of(token))}

    content = [
        {
            **entry(token, value),
            "top_logprobs": [entry(t, v) for t, v in completion.top_log_probs[start + place]] if top else [],
        }
        for place, (token, value) in enumerate(
            zip(completion.token_ids[start:end], completion.log_probs[start:end], strict=True)
        )
    ]
    return {"content": content, "refusal": None}
