"""An OpenAI-compatible server's /v1/embeddings as an embedder, with everything that questions to endpoints have.

The line is that of `openai` providers: keys from the environment, `data.local_only`, tries, the budget. Rows are kept
in the same file as answers, one for each text or image, under a digest of endpoint, model, dimensions and content.
Images go as data URLs, in one of two forms: `messages`, one image a request, as vLLM takes them, and `input`, a batch
of URLs with `modality: image`, as Infinity does. OpenAI's own endpoint embeds no images.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from open4ov.errors import UserError
from open4ov.mllm import tokens
from open4ov.mllm.ask import GRACE, AnswerError, Picture, ProviderError
from open4ov.mllm.budget import Usage
from open4ov.mllm.cache import Kept, key
from open4ov.mllm.crew import Crew
from open4ov.mllm.line import Line
from open4ov.mllm.local import DEFAULT_URL
from open4ov.mllm.showing import encode
from open4ov.mllm.transport import Fault
from open4ov.recipe_embedder import EndpointSection
from open4ov.recipe_providers import PriceSection, ProviderSection

if TYPE_CHECKING:
    from open4ov.mllm.desk import Desk

Floats = NDArray[np.float32]
WHERE = "data.embedder.endpoint"
ROLE = "embed"
"""Under which its requests are counted and booked"""


class EndpointEmbedder(Line):
    """Raises `ProviderError` when the endpoint cannot serve, and UserError for a row that it does not give: fine
    matching needs them all."""

    def __init__(self, settings: EndpointSection, desk: Desk | None = None) -> None:
        price = None if settings.price is None else PriceSection(input=settings.price, output=0)
        provider = ProviderSection(
            kind="openai", base_url=settings.base_url, model=settings.model, api_key_env=settings.api_key_env,
            concurrency=settings.concurrency, timeout=settings.timeout, retries=settings.retries, price=price,
            image_tokens=settings.image_tokens,
        )  # fmt: skip
        super().__init__(provider, WHERE, desk)
        self._form, self._batch, self._dimensions = settings.image_form, settings.batch, settings.dimensions
        self.sees = settings.images

    def texts(self, texts: Sequence[str]) -> Floats:
        def body(part: Sequence[str]) -> tuple[dict[str, Any], Usage, Usage]:
            most, usual = (sum(map(rule, part)) + tokens.MESSAGE * len(part) for rule in (tokens.bound, tokens.guess))
            return {"input": list(part)}, Usage(most), Usage(usual, 0, 1)

        return self._rows(texts, [["text", text] for text in texts], self._batch, body)

    def images(self, pictures: Sequence[Picture]) -> Floats:
        if not self.sees:
            raise UserError(f"{WHERE}: images is false; images are described instead")

        def body(part: Sequence[Picture]) -> tuple[dict[str, Any], Usage, Usage]:
            shown = [encode(picture, self._settings) for picture in part]
            most = sum(tokens.of_image(self._settings.image_tokens, *one.size) + 2 * tokens.MESSAGE for one in shown)
            urls = [one.url for one in shown]
            if self._form == "input":
                return {"input": urls, "modality": "image"}, Usage(most), Usage(most, 0, 1)
            content = [{"type": "image_url", "image_url": {"url": urls[0]}}]
            return {"messages": [{"role": "user", "content": content}]}, Usage(most), Usage(most, 0, 1)

        step = self._batch if self._form == "input" else 1
        return self._rows(pictures, [["image", self._form, picture.sha] for picture in pictures], step, body)

    def _rows(self, items: Sequence[Any], contents: list[list[str]], step: int, body: Any) -> Floats:
        """[N, D]: those that are kept, and the others asked for, each content once."""
        if not items:
            return np.zeros((0, self._dimensions or 0), dtype=np.float32)
        keys = [self._key(content) for content in contents]
        found: dict[bytes, Floats] = {}
        asked: dict[bytes, Any] = {}
        for name, item in zip(keys, items, strict=True):
            if name not in found and name not in asked:
                row = self._kept(name)
                if row is None:
                    asked[name] = item
                else:
                    found[name] = row
        names = list(asked)
        parts = [names[start : start + step] for start in range(0, len(names), step)]

        def one(part: list[bytes]) -> Floats:
            return self._ask(part, *body([asked[name] for name in part]))

        crew = Crew(one, self.concurrency)
        try:
            jobs = [crew.submit(part) for part in parts]
            for part, job in zip(parts, jobs, strict=True):
                found.update(zip(part, job(), strict=True))
        except Exception as error:
            crew.end()
            if isinstance(error, AnswerError):
                raise ProviderError(f"{error}; fine matching needs every row") from None
            raise
        except BaseException:  # Ctrl-C: whoever waits for a reply is left behind, whoever has one keeps it
            self._desk.stop()
            crew.end(GRACE)
            self._desk.budget.abandon()
            raise
        crew.end()
        widths = {len(found[name]) for name in keys}
        if len(widths) > 1:
            raise ProviderError(f"{self._where}: rows of different lengths ({', '.join(map(str, sorted(widths)))})")
        return np.stack([found[name] for name in keys])

    def _key(self, content: list[str]) -> bytes:
        endpoint = self._settings.base_url or DEFAULT_URL
        return key(role=ROLE, endpoint=endpoint, model=self._model, parameters=[self._dimensions], messages=content)

    def _kept(self, name: bytes) -> Floats | None:
        cache = self._desk.cache
        kept = cache.get(name) if cache is not None else None  # its truth would count all its rows
        if kept is None:
            return None
        self._desk.tally.answered(ROLE, Usage(kept.input, 0, int(kept.estimated)), self._settings.price, kept=True)
        return np.frombuffer(base64.b64decode(kept.answer), dtype="<f4")

    def _ask(self, names: list[bytes], body: dict[str, Any], most: Usage, usual: Usage) -> Floats:
        asked = {"model": self._model, "encoding_format": "float", **body}
        if self._dimensions is not None:
            asked["dimensions"] = self._dimensions

        def create() -> tuple[Floats, Usage]:
            reply: Any = self._client.post("/embeddings", cast_to=object, body=asked)
            found = _read(reply, len(names), self._dimensions)
            return found, _usage(reply) or usual

        try:
            found, took = self.send(ROLE, most, create, usual)
        except AnswerError as error:
            self._desk.tally.fault(ROLE, error.kind)
            raise
        share = -(-took.input // len(names))
        for name, row in zip(names, found, strict=True):
            usage = Usage(share, 0, took.estimated)
            if self._desk.cache is not None:
                text = base64.b64encode(row.astype("<f4").tobytes()).decode()
                self._desk.cache.put(name, Kept(text, share, 0, took.estimated > 0), self._model, ROLE)
            self._desk.tally.answered(ROLE, usage, self._settings.price, kept=False)
        return found


def _read(reply: Any, count: int, dimensions: int | None) -> Floats:
    """The rows of a reply in the order of their `index`. Raises `Fault` for any other reply."""
    data: Any = cast("dict[str, Any]", reply).get("data") if isinstance(reply, dict) else None
    if not isinstance(data, list) or len(cast("list[Any]", data)) != count:
        raise _odd(f"the reply holds no {count} rows")
    rows: list[Floats | None] = [None] * count
    for place, entry in enumerate(cast("list[Any]", data)):
        number: Any = cast("dict[str, Any]", entry).get("index", place) if isinstance(entry, dict) else None
        if not isinstance(number, int) or not 0 <= number < count or rows[number] is not None:
            raise _odd("the reply's rows have no index of their own")
        rows[number] = _row(cast("dict[str, Any]", entry).get("embedding"))
    widths = {len(row) for row in rows if row is not None}
    if len(widths) != 1 or (dimensions is not None and widths != {dimensions}):
        raise _odd("the reply's rows are of another length than asked for, or of several")
    return np.stack(cast("list[Floats]", rows))


def _row(value: Any) -> Floats:
    """A list of numbers, or base64 of little-endian floats, which some servers send unasked."""
    try:
        if isinstance(value, str):
            row = np.frombuffer(base64.b64decode(value, validate=True), dtype="<f4").astype(np.float32)
        else:
            row = np.asarray(value, dtype=np.float32)
    except (TypeError, ValueError, binascii.Error):
        raise _odd("a row of the reply holds no numbers") from None
    if row.ndim != 1 or not len(row) or not np.isfinite(row).all():
        raise _odd("a row of the reply is no list of finite numbers")
    return row


def _odd(reason: str) -> Fault:
    return Fault("embedding", reason, again=True)


def _usage(reply: dict[str, Any]) -> Usage | None:
    told: Any = reply.get("usage")
    if not isinstance(told, dict):
        return None
    found: Any = cast("dict[str, Any]", told).get("prompt_tokens", cast("dict[str, Any]", told).get("total_tokens"))
    return Usage(found) if isinstance(found, int) and not isinstance(found, bool) and found >= 0 else None
