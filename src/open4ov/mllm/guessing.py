"""Made-up answers in the place of an endpoint's, counted as they are asked for: what `estimate.py` adds up."""

from __future__ import annotations

import zlib
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from open4ov.mllm import tokens
from open4ov.mllm.ask import AnswerError, Picture, Request
from open4ov.mllm.budget import Usage
from open4ov.mllm.embedding import Floats, embed_texts
from open4ov.recipe import DataSection
from open4ov.recipe_embedder import EndpointSection
from open4ov.recipe_providers import ProviderSection

if TYPE_CHECKING:
    from open4ov.mllm.cache import AnswerCache

SENTENCE = "It shows this and that beside one another, which can be asked about in some ways."
REASON = f"{SENTENCE} What the answer says of it can be seen, and nothing else in the picture speaks against it."
RESPONSE = " ".join([SENTENCE, REASON, SENTENCE, REASON])
"""About as long as models write when they explain: some 90 words"""

EMBED, ENDPOINT = "embed", "data.embedder"
"""Role and name of the embeddings endpoint's row"""


@dataclass
class Row:
    """What one role asks of one provider."""

    calls: int = 0
    kept: int = 0  # beside those: answered before
    images: int = 0
    image_tokens: int = 0
    usage: Usage = field(default_factory=Usage)


class Guesser:
    """A provider that counts and answers at once. `rows`: by role and provider, shared by all guessers of a run.
    `cache`: answers of earlier starts. `most`: counts what there may be at most, not what is likely."""

    concurrency = 1

    def __init__(
        self,
        name: str,
        settings: ProviderSection,
        rows: dict[tuple[str, str], Row],
        cache: AnswerCache | None = None,
        most: bool = False,
    ) -> None:
        self.most = most
        self._name, self._settings, self._rows, self._cache = name, settings, rows, cache
        self._seen: set[bytes] = set()
        self._pictures: dict[str, int] = {}

    def identity(self, role: str) -> str:
        return self._settings.model or self._settings.kind

    def answer(self, request: Request) -> dict[str, Any]:
        if self._settings.kind != "openai":
            return made_up(request, 1.0 if self.most else 0.5)
        from open4ov.mllm import reply
        from open4ov.mllm.question import known_as

        text = request.prompt.text
        asked = known_as(request, text, self._settings)
        kept = self._cache.get(asked) if self._cache is not None else None
        try:
            answer = reply.fit(kept.answer, request) if kept else None
        except reply.Misfit:  # as the run itself would find
            answer = None
        again = asked in self._seen
        self._seen.add(asked)
        if answer is not None:
            self._rows.setdefault((request.role, self._name), Row()).kept += not again
            return answer
        answer = made_up(request, 1.0 if self.most else 0.5)
        if again:
            return answer
        pictures = [self._picture(request, number) for number in range(len(request.images))]
        schema = reply.schema(request.schema).text
        said = request.schema.model_validate(answer).model_dump_json()
        row = self._rows.setdefault((request.role, self._name), Row())
        row.calls += 1
        row.images += len(pictures)
        row.image_tokens += sum(pictures)
        count, longest = (tokens.bound if self.most else tokens.guess), self._settings.max_tokens
        read = count(text) + count(schema) + sum(pictures) + 2 * tokens.MESSAGE
        row.usage += Usage(read, longest if self.most else min(count(said), longest))
        return answer

    def _picture(self, request: Request, number: int) -> int:
        from open4ov.mllm.showing import scaled

        picture = request.images[number]
        if picture.sha not in self._pictures:
            size = scaled(picture.size, self._settings.max_pixels)
            self._pictures[picture.sha] = tokens.of_image(self._settings.image_tokens, *size)
        return self._pictures[picture.sha]


def made_up(request: Request, density: float = 0.5) -> dict[str, Any]:
    """An answer of the usual form and length to a question of any role. `density`: of every image, in all four."""
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
            return dict.fromkeys(("subjects", "space", "ocr", "knowledge"), density)
        case "synthesize":
            return {"pairs": [_pair(values, number) for number in range(values["budget"])]}
        case "verify":
            names = ("accuracy", "completeness", "authenticity", "relevance", "plausibility")
            return {name: {"ok": True, "reason": SENTENCE} for name in names}
        case "judge_1" | "judge_2" | "judge_3":
            return {"score": 1, "reason": REASON}
        case role:
            raise AnswerError(f"no estimate is known for the role {role!r}")


def _pair(values: dict[str, Any], number: int) -> dict[str, Any]:
    topics, languages = values["topics"], values["languages"]
    return {
        "topic": topics[number % len(topics)]["path"] if topics else "",
        "task": "naming", "language": languages[number % len(languages)],
        "question": f"What can be said about part number {number} of what this image shows?",
        "answer": "this and that", "aliases": ["that", "this"], "response": RESPONSE,
    }  # fmt: skip


@contextmanager
def guessers(
    section: DataSection, place: Path | None = None, most: bool = False
) -> Generator[tuple[dict[str, Guesser], dict[tuple[str, str], Row]]]:
    """One for each provider of a recipe, and the rows that they fill. `place`: the run's folder, with its answers."""
    from open4ov.mllm.cache import AnswerCache
    from open4ov.mllm.desk import kept_in

    rows: dict[tuple[str, str], Row] = {}
    folder = kept_in(section, place)
    cache = AnswerCache.of_before(folder) if folder else None
    try:
        yield {name: Guesser(name, settings, rows, cache, most) for name, settings in section.providers.items()}, rows
    finally:
        if cache is not None:
            cache.close()


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
