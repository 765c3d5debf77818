"""What data construction would ask, and what that would cost, without sending anything (`open4ov run --dry-run`).

All steps run as they would, with every prompt as it would be sent; only the answers are made up: topics as many as are
asked for, pairs up to the budget, every judge and check in favour. So calls and tokens are on the high side, and the
later steps follow the earlier ones. Text is counted by `tokens.guess`, images by the recipe's rule, an answer as a
typical one of its kind. A question that is asked twice counts once, as the kept answer would be used.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from open4ov.mllm import tokens
from open4ov.mllm.ask import AnswerError, Picture, Request, version
from open4ov.mllm.budget import Usage
from open4ov.mllm.embedding import Floats, embed_texts
from open4ov.recipe import DataSection
from open4ov.recipe_embedder import EndpointSection
from open4ov.recipe_providers import PriceSection, ProviderSection

SENTENCE = "It shows this and that beside one another, which can be asked about in some ways."


EMBED, ENDPOINT = "embed", "data.embedder"
"""Role and name of the embeddings endpoint's row"""


@dataclass
class Row:
    """What one role asks of one provider."""

    calls: int = 0
    images: int = 0
    image_tokens: int = 0
    usage: Usage = field(default_factory=Usage)


class Guesser:
    """A provider that counts and answers at once. `rows`: by role and provider, shared by all guessers of a run."""

    concurrency = 1

    def __init__(self, name: str, settings: ProviderSection, rows: dict[tuple[str, str], Row]) -> None:
        self._name, self._settings, self._rows = name, settings, rows
        self._seen: set[tuple[object, ...]] = set()
        self._pictures: dict[str, int] = {}

    def identity(self, role: str) -> str:
        return self._settings.model or self._settings.kind

    def answer(self, request: Request) -> dict[str, Any]:
        from open4ov.mllm import reply

        text = request.prompt.text
        answer = made_up(request)
        asked = (request.role, version(request.prompt.template), text, *(picture.sha for picture in request.images))
        if self._settings.kind != "openai" or asked in self._seen:
            return answer
        self._seen.add(asked)
        pictures = [self._picture(request, number) for number in range(len(request.images))]
        schema = reply.schema(request.schema).text
        said = request.schema.model_validate(answer).model_dump_json()
        row = self._rows.setdefault((request.role, self._name), Row())
        row.calls += 1
        row.images += len(pictures)
        row.image_tokens += sum(pictures)
        read = tokens.guess(text) + tokens.guess(schema) + sum(pictures) + 2 * tokens.MESSAGE
        row.usage += Usage(read, min(tokens.guess(said), self._settings.max_tokens))
        return answer

    def _picture(self, request: Request, number: int) -> int:
        picture = request.images[number]
        if picture.sha not in self._pictures:
            self._pictures[picture.sha] = tokens.of_image(self._settings.image_tokens, *picture.size)
        return self._pictures[picture.sha]


def made_up(request: Request) -> dict[str, Any]:
    """An answer of the usual form and length to a question of any role."""
    values = request.prompt.values
    match request.role:
        case "topics":
            name = f"{values['ability']['l2']}: {values['domain']['l2']}"
            return {"topics": [f"{name} {number}" for number in range(values["limit"])]}
        case "rank":
            names = {axis: [label["name"] for label in values["labels"][axis]] for axis in ("domain", "ability")}
            start = zlib.crc32(request.images[0].sha.encode())  # every image has labels of its own
            turned = {axis: start % len(found) for axis, found in names.items()}
            ranked = {axis: [*found[turned[axis] :], *found[: turned[axis]]] for axis, found in names.items()}
            return {"description": SENTENCE, **{axis: [*found, "Others"] for axis, found in ranked.items()}}
        case "density":
            return dict.fromkeys(("subjects", "space", "ocr", "knowledge"), 0.5)
        case "synthesize":
            return {"pairs": [_pair(values, number) for number in range(values["budget"])]}
        case "verify":
            names = ("accuracy", "completeness", "authenticity", "relevance", "plausibility")
            return {name: {"ok": True, "reason": SENTENCE} for name in names}
        case "judge_1" | "judge_2" | "judge_3":
            return {"score": 1, "reason": SENTENCE}
        case role:
            raise AnswerError(f"no estimate is known for the role {role!r}")


def _pair(values: dict[str, Any], number: int) -> dict[str, Any]:
    topics, languages = values["topics"], values["languages"]
    return {
        "topic": topics[number % len(topics)]["path"] if topics else "",
        "task": "naming", "language": languages[number % len(languages)],
        "question": f"What can be said about part number {number} of what this image shows?",
        "answer": "this and that", "aliases": ["that", "this"], "response": SENTENCE,
    }  # fmt: skip


def guessers(section: DataSection) -> tuple[dict[str, Guesser], dict[tuple[str, str], Row]]:
    """One for each provider of a recipe, and the rows that they fill."""
    rows: dict[tuple[str, str], Row] = {}
    return {name: Guesser(name, settings, rows) for name, settings in section.providers.items()}, rows


class GuessedEmbedder:
    """Counts what an embeddings endpoint would be asked; its rows are hashed, those of images from their digest."""

    def __init__(self, settings: EndpointSection, rows: dict[tuple[str, str], Row]) -> None:
        self.sees, self._settings, self._rows = settings.images, settings, rows
        self._seen: set[str] = set()

    def texts(self, texts: Sequence[str]) -> Floats:
        new = dict.fromkeys(text for text in texts if text not in self._seen)
        self._seen.update(new)
        self._count(len(new), self._settings.batch, sum(tokens.guess(text) + tokens.MESSAGE for text in new))
        return embed_texts(texts)

    def images(self, pictures: Sequence[Picture]) -> Floats:
        new = {picture.sha: picture for picture in pictures if picture.sha not in self._seen}
        self._seen.update(new)
        sizes = [tokens.of_image(self._settings.image_tokens, *picture.size) for picture in new.values()]
        step = self._settings.batch if self._settings.image_form == "input" else 1
        row = self._count(len(new), step, sum(sizes) + 2 * tokens.MESSAGE * len(new))
        row.images += len(new)
        row.image_tokens += sum(sizes)
        return embed_texts([picture.sha for picture in pictures])

    def _count(self, items: int, step: int, read: int) -> Row:
        row = self._rows.setdefault((EMBED, ENDPOINT), Row())
        row.calls += -(-items // step)
        row.usage += Usage(read)
        return row


def guessed_embedder(section: DataSection, rows: dict[tuple[str, str], Row]) -> GuessedEmbedder | None:
    """In place of an embeddings endpoint, so that nothing is sent; None where the recipe names another embedder."""
    endpoint = section.embedder.endpoint
    return GuessedEmbedder(endpoint, rows) if endpoint else None


def _asked(section: DataSection, name: str) -> ProviderSection:
    """Model, price and image rule of whoever a row is about."""
    endpoint = section.embedder.endpoint
    if name != ENDPOINT or endpoint is None:
        return section.providers[name]
    price = None if endpoint.price is None else PriceSection(input=endpoint.price, output=0)
    return ProviderSection(kind="openai", model=endpoint.model, price=price, image_tokens=endpoint.image_tokens)


def figures(section: DataSection, rows: dict[tuple[str, str], Row]) -> dict[str, Any]:
    """The estimate as data: lines by role and provider, totals, and by which rules images were counted."""
    lines: list[dict[str, Any]] = [
        {
            "role": role, "provider": name, "model": _asked(section, name).model or "", "calls": row.calls,
            "images": row.images, "image_tokens": row.image_tokens, "input": row.usage.input,
            "output": row.usage.output, "money": row.usage.money(_asked(section, name).price),
            "priced": _asked(section, name).price is not None,
        }
        for (role, name), row in rows.items()
    ]  # fmt: skip
    names = ("calls", "images", "image_tokens", "input", "output", "money")
    rules = {name: tokens.rule_in_words(_asked(section, name).image_tokens) for _, name in rows}
    return {"lines": lines, "total": {name: sum(line[name] for line in lines) for name in names}, "image_rules": rules}


def to_text(found: dict[str, Any], section: DataSection) -> str:
    """The estimate as a table for a person."""
    if not found["lines"]:
        return "No provider is an endpoint: nothing would be sent, and nothing paid."
    head: tuple[str, ...] = (
        "role",
        "provider",
        "calls",
        "images",
        "input tokens",
        "of images",
        "output tokens",
        "cost",
    )
    rows: list[tuple[str, ...]] = [head]
    for line in [*found["lines"], {"role": "all", "provider": "", "priced": True, **found["total"]}]:
        cost = f"{line['money']:.4g}" if line["priced"] else "no price"
        counts = (line[name] for name in ("calls", "images", "input", "image_tokens", "output"))
        rows.append((str(line["role"]), str(line["provider"]), *(f"{count:,}" for count in counts), cost))
    widths = [max(len(row[place]) for row in rows) for place in range(len(head))]
    text = [
        "  ".join(cell.ljust(width) if place < 2 else cell.rjust(width)
                  for place, (cell, width) in enumerate(zip(row, widths, strict=True))).rstrip()
        for row in rows
    ]  # fmt: skip
    text += [f"images for {name}: {rule}" for name, rule in found["image_rules"].items()]
    text.append("An estimate on the high side: every judge agrees, every image gets the pairs of a middling density.")
    total, limits = found["total"], section.budget
    for name, limit, need in (("tokens", limits.tokens, total["input"] + total["output"]),
                              ("money", limits.money, total["money"])):  # fmt: skip
        if limit is not None and need > limit:
            text.append(
                f"data.budget.{name} is {limit:,}: about {limit / need:.0%} of this, and the run would stop there."
            )
    return "\n".join(text)
