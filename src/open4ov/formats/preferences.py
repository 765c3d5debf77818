"""Preference pairs: a prompt with a chosen and a rejected response, as the trainers of the field write them.

    trl           `prompt`, `chosen`, `rejected`: texts or lists of messages, `images` beside them; without `prompt` the
                  beginning that both share is it
    openrlhf      `chosen`, `rejected`: whole conversations
    llamafactory  ShareGPT: `conversations`, `chosen` and `rejected` (`from`, `value`), `images`
    swift         ms-swift: `messages` that end with the chosen response, `rejected_response`, `images`

Reading takes each of them under any of these names, and rows that become pairs (`preference_rows.py`). What a pair is
of goes into `extra["pair"]`, what people said of its responses into `extra["attributes"]`: attribute -> `chosen`,
`rejected` or `equal` (which is better), or {"chosen": score, "rejected": score}.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from open4ov.formats import tokens
from open4ov.formats.attributes import attributes
from open4ov.formats.conversations import ROLES, Conversations
from open4ov.formats.messages import Messages
from open4ov.formats.row import Parsed, RowError
from open4ov.sample import Message, Part, Sample, assistant

FORMS = ("trl", "openrlhf", "llamafactory", "swift")
PROMPTS = ("prompt", "question", "instruction", "query")
KIND = "human"
"""Of pairs that do not say what they are of"""
_REJECTED = ("rejected_response", "rejected_messages")
_SHAREGPT = Conversations("llamafactory", "images")


class Preferences:
    """The codec of one form to write; it reads all of them."""

    def __init__(self, name: str) -> None:
        assert name in FORMS, name
        self.name = name

    def decode(self, row: Mapping[str, Any]) -> Parsed:
        form = form_of(row)
        if form is None:
            raise RowError("no preference pair: it needs `chosen` and `rejected`, or `messages` and rejected_response")
        parsed = _swift(row) if form == "swift" else _sharegpt(row) if form == "llamafactory" else _pair(row)
        told, used = attributes(row)
        parsed.used |= used
        kind = row.get("pair")
        if isinstance(kind, str) and kind:
            parsed.used.add("pair")
        parsed.extra = {
            "pair": kind if isinstance(kind, str) and kind else KIND,
            **({"attributes": told} if told else {}),
        }
        parsed.values |= {"task": "preference"}
        if parsed.messages[-1].role != "assistant" or len(parsed.messages) < 2:
            raise RowError("its chosen response does not follow a question")
        own = {key: row[key] for key in parsed.used if key not in ("images", "image")}
        again = self._texts(parsed.messages, parsed.values["rejected"])
        parsed.as_written = own if own != again else None
        return parsed

    def encode(self, sample: Sample, images: Sequence[str]) -> dict[str, Any]:
        if not sample.rejected or not sample.messages or sample.messages[-1].role != "assistant":
            raise RowError("no preference pair: it has no rejected response")
        shown = [place for message in sample.messages for part in message.content for place in part.shows]
        if any(place >= len(images) for place in shown):
            raise RowError(f"a message shows image {max(shown) + 1} of {len(images)}")
        named = [images[place] for place in shown]
        named += [name for place, name in enumerate(images) if place not in shown]
        row: dict[str, Any] = {"id": sample.id, **self._texts(sample.messages, sample.rejected)}
        return {**row, "images": named} if named else row

    def _texts(self, messages: Sequence[Message], rejected: Sequence[Message]) -> dict[str, Any]:
        if self.name == "swift":
            return {"messages": [_plain(m) for m in messages], "rejected_response": rejected[-1].text}
        if self.name == "llamafactory":
            turns = [{"from": "gpt", "value": tokens.join(one.content)} for one in (messages[-1], rejected[-1])]
            told = _SHAREGPT.texts(messages[:-1])
            return {**told, "chosen": turns[0], "rejected": turns[1]}
        prompt = [_parts(m) for m in messages[:-1]]
        chosen, other = [_parts(messages[-1])], [_parts(rejected[-1])]
        if self.name == "openrlhf":
            return {"chosen": [*prompt, *chosen], "rejected": [*prompt, *other]}
        return {"prompt": prompt, "chosen": chosen, "rejected": other}


def form_of(row: Mapping[str, Any]) -> str | None:
    """The form of a row, by the fields it has; None for one that is no pair."""
    if isinstance(row.get("messages"), list) and any(row.get(key) for key in _REJECTED):
        return "swift"
    if row.get("chosen") is None or row.get("rejected") is None:
        return None
    if isinstance(row.get("conversations"), list):
        return "llamafactory"
    return "trl" if any(row.get(key) for key in PROMPTS) else "openrlhf"


def _swift(row: Mapping[str, Any]) -> Parsed:
    if row.get("rejected_images"):
        raise RowError("its rejected response has images of its own: both responses answer one prompt")
    parsed = Messages().decode(row)
    if isinstance(told := row.get("rejected_response"), str) and told:
        rejected, key = told, "rejected_response"
    else:
        key = "rejected_messages"
        rejected = _response(row.get(key), key)[1]
    return _with(parsed, rejected, {key})


def _sharegpt(row: Mapping[str, Any]) -> Parsed:
    answers: list[str] = []
    for key in ("chosen", "rejected"):
        given: Any = row[key]
        turn = cast("list[Any]", given)[0] if isinstance(given, list) and given else cast("Any", given)
        said = cast("dict[str, Any]", turn) if isinstance(turn, dict) else {"value": cast("object", turn)}
        text: Any = said.get("value", said.get("content"))
        if not isinstance(text, str) or ROLES.get(str(said.get("from", said.get("role", "gpt")))) != "assistant":
            raise RowError(f"its {key} is no response ({{'from': 'gpt', 'value': ...}})")
        answers.append(text)
    parsed = _SHAREGPT.decode(row)
    parsed.messages = [*parsed.messages, assistant(answers[0])]
    return _with(parsed, answers[1], {"chosen", "rejected"})


def _pair(row: Mapping[str, Any]) -> Parsed:
    """TRL's and OpenRLHF's forms, by whether there is a prompt."""
    used = {"chosen", "rejected"}
    before, chosen = _response(row["chosen"], "chosen")
    other, rejected = _response(row["rejected"], "rejected")
    asked = next((key for key in PROMPTS if row.get(key)), None)
    if asked is not None:
        used.add(asked)
        prompt = row[asked]
        if isinstance(prompt, str):
            more = row.get("input") if asked == "instruction" else None
            if isinstance(more, str) and more:
                prompt, used = f"{prompt}\n{more}", used | {"input"}
            prompt = [{"role": "user", "content": prompt}]
        if isinstance(system := row.get("system"), str) and system:
            prompt, used = [{"role": "system", "content": system}, *prompt], used | {"system"}
        if not isinstance(prompt, list):
            raise RowError(f"its {asked} is neither a text nor a list of messages")
        before = before if before and before == prompt else [*cast("list[Any]", prompt), *before]
        if other and other not in (before, prompt):
            raise RowError("its responses answer different prompts")
    elif isinstance(row["chosen"], str):
        before, chosen, rejected = _of_texts(row["chosen"], row["rejected"])
    elif before != other:
        raise RowError("its chosen and rejected conversations differ before the last response")
    if not before:
        raise RowError("it has no prompt; name its column: --map COLUMN=prompt")
    given = {key: row[key] for key in ("image", "images", "video", "videos", "audio", "audios") if key in row}
    parsed = Messages().decode({"messages": [*before, {"role": "assistant", "content": chosen}], **given})
    parsed.used = (parsed.used - {"messages"}) | used
    return _with(parsed, rejected, set())


def _response(given: Any, key: str) -> tuple[list[Any], str]:
    """What comes before a response, where it is a whole conversation, and its text."""
    if isinstance(given, str):
        return [], given
    if isinstance(given, dict):
        given = [cast("dict[str, Any]", given)]
    turns = cast("list[Any]", given) if isinstance(given, list) else []
    last = cast("dict[str, Any]", turns[-1]) if turns and isinstance(turns[-1], dict) else {}
    content: Any = last.get("content")
    if isinstance(content, list):
        parts = [cast("dict[str, Any]", part) for part in cast("list[Any]", content) if isinstance(part, dict)]
        if any(part.get("type", "text") != "text" for part in parts):
            raise RowError(f"its {key} response holds something that is no text")
        content = "".join(str(part.get("text") or "") for part in parts)
    if last.get("role", "assistant") != "assistant" or not isinstance(content, str):
        raise RowError(f"its {key} does not end with the assistant's response")
    return turns[:-1], content


_TURNS = (("\n\nHuman:", "user"), ("\n\nAssistant:", "assistant"))


def _of_texts(chosen: Any, rejected: Any) -> tuple[list[Any], str, str]:
    """Two whole texts: a dialogue of `Human:` and `Assistant:`, or the beginning that both share and the rest."""
    if not isinstance(chosen, str) or not isinstance(rejected, str):
        raise RowError("its chosen is a text and its rejected is none")
    if chosen.startswith(_TURNS[0][0]) and rejected.startswith(_TURNS[0][0]):
        left, right = _dialogue(chosen), _dialogue(rejected)
        if left[:-1] != right[:-1] or left[-1]["role"] != "assistant" or right[-1]["role"] != "assistant":
            raise RowError("its chosen and rejected dialogues differ before the last response")
        return left[:-1], left[-1]["content"], right[-1]["content"]
    end = next((i for i, (a, b) in enumerate(zip(chosen, rejected, strict=False)) if a != b), 0)
    cut = max(chosen.rfind(mark, 0, end) for mark in (" ", "\n", "。", "？", "！", "："))
    prompt = chosen[: cut + 1].strip()
    return (
        ([{"role": "user", "content": prompt}] if prompt else []),
        chosen[cut + 1 :].strip(),
        rejected[cut + 1 :].strip(),
    )


def _dialogue(text: str) -> list[dict[str, str]]:
    turns: list[dict[str, str]] = []
    for piece in text.replace(_TURNS[1][0], f"\0{_TURNS[1][0]}").replace(_TURNS[0][0], f"\0{_TURNS[0][0]}").split("\0"):
        for mark, role in _TURNS:
            if piece.startswith(mark):
                turns.append({"role": role, "content": piece.removeprefix(mark).strip()})
    return turns


def _with(parsed: Parsed, rejected: str, used: set[str]) -> Parsed:
    parsed.used = parsed.used | used
    parsed.values = {**parsed.values, "rejected": [assistant(rejected)]}
    return parsed


def _parts(message: Message) -> dict[str, Any]:
    """A message with its images as parts that name none: they are the next ones of `images`."""
    texts = [part for part in message.content if part.type == "text"]
    if len(texts) == len(message.content) == 1:
        return {**(message.model_extra or {}), "role": message.role, "content": texts[0].text or ""}
    content = [one for part in message.content for one in _written(part)]
    return {**(message.model_extra or {}), "role": message.role, "content": content}


def _written(part: Part) -> list[dict[str, Any]]:
    if part.type == "text":
        return [{"type": "text", "text": part.text or ""}]
    return [{"type": "image"} for _ in part.shows]


def _plain(message: Message) -> dict[str, Any]:
    return {**(message.model_extra or {}), "role": message.role, "content": tokens.join(message.content)}
