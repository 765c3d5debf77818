"""`data.embedder`: what puts images and topics into one space for fine matching (paper §2.2.3).

Four kinds. A text names the first two: `open4ov`, the embedder that ships, and `package.module:function`. A mapping
names the others: `directory: PATH`, a model on this machine, and `endpoint: {...}`, an OpenAI-compatible server.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal, cast

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from open4ov import recipe_encoder
from open4ov.recipe_encoder import EncoderOptions
from open4ov.recipe_providers import ImageRule, address_fault
from open4ov.recipe_section import Section
from open4ov.yaml_file import Loc

if TYPE_CHECKING:
    from open4ov.recipe import DataSection

SHIPPED = "open4ov"
DEFAULT = "open4ov.mllm.embedding:embed_texts"
KINDS = ("name", "directory", "endpoint")
FORMS = (SHIPPED, "package.module:function", "directory: PATH", "endpoint: {base_url, model}")


class EndpointSection(Section):
    """An OpenAI-compatible server's /v1/embeddings."""

    base_url: str | None = Field(default=None, description="its address; the key comes from api_key_env")
    model: str = Field(min_length=1, description="the endpoint's name of the model")
    api_key_env: str = Field(default="OPENAI_API_KEY", description="name of the environment variable with the key")
    dimensions: int | None = Field(default=None, ge=1, description="asked for by models that can be cut; else not sent")
    batch: int = Field(default=64, ge=1, le=2048, description="texts of a request")
    images: bool = Field(default=False, description="it embeds images too, in the texts' space; else descriptions are")
    image_form: Literal["messages", "input"] = Field(
        default="messages",
        description="how images go: messages (vLLM; one a request) or input (data URLs in `input`, as Infinity)",
    )
    concurrency: int = Field(default=8, ge=1, le=4096, description="most requests open at once")
    timeout: float = Field(default=300.0, gt=0, le=86_400, description="seconds until an answer must be there")
    retries: int = Field(default=4, ge=0, le=100, description="further tries of a request that failed")
    price: float | None = Field(default=None, ge=0, description="for a million tokens, in the budget's currency")
    image_tokens: ImageRule | int = Field(default="patch32", description="tokens of an image, as of a provider")


class EmbedderSection(EncoderOptions):
    """Exactly one of `name`, `directory` and `endpoint`."""

    name: str | None = Field(
        default=None, description="open4ov (ships; images and texts) or package.module:function (texts -> [N, D])"
    )
    directory: str | None = Field(
        default=None, min_length=1, description="folder of a sentence-transformers model; needs the extra `embed`"
    )
    endpoint: EndpointSection | None = Field(default=None, description="an OpenAI-compatible /v1/embeddings")

    @model_serializer(mode="wrap")
    def _short(self, handler: SerializerFunctionWrapHandler) -> Any:
        """As it was written, with nothing that its kind does not read: a name is a text again."""
        if self.name is not None:
            return self.name
        found = cast("dict[str, Any]", handler(self))
        kept = ("directory", "batch") if self.directory is not None else ("endpoint",)
        return {key: value for key, value in found.items() if key in kept}

    @property
    def sees(self) -> bool | None:
        """Whether it can be given images; None where only the model's folder tells."""
        if self.endpoint is not None:
            return self.endpoint.images
        return self.name == SHIPPED if self.directory is None else None


def contradictions(data: DataSection) -> Iterator[tuple[Loc, str]]:
    """Values of `data.embedder` that cannot hold together."""
    embedder, here = data.embedder, ("data", "embedder")
    yield from recipe_encoder.contradictions(embedder, here, FORMS, KINDS, SHIPPED)
    if (endpoint := embedder.endpoint) is not None:
        there: Loc = (*here, "endpoint")
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", endpoint.api_key_env):
            yield (*there, "api_key_env"), "is no name of an environment variable; put the key there, never in a recipe"
        if endpoint.base_url is not None and (fault := address_fault(endpoint.base_url)):
            yield (*there, "base_url"), fault
        if isinstance(endpoint.image_tokens, int) and endpoint.image_tokens < 0:
            yield (*there, "image_tokens"), f"{endpoint.image_tokens} is negative"
        if data.budget.money is not None and endpoint.price is None:
            yield (*there, "price"), "data.budget.money needs it: the price of a million tokens, 0 where it is free"
    for name, provider in data.providers.items():
        if provider.kind == "embedder":
            yield from _ranks(data, name)


def _ranks(data: DataSection, name: str) -> Iterator[tuple[Loc, str]]:
    """What a provider of kind `embedder` asks of the rest of the recipe."""
    here: Loc = ("data", "providers", name)
    if data.embedder.sees is False:
        told = data.embedder.name or "an endpoint without `images: true`"
        yield (
            here,
            (
                f"kind `embedder` needs a data.embedder that sees images, and {told} embeds texts only: use {SHIPPED}, "
                "a directory, or an endpoint with images: true"
            ),
        )
    if data.providers[name].others is None and data.embedder.name != SHIPPED:
        yield (
            here,
            f"kind `embedder` needs `others`, the cosine below which no label applies: only that of {SHIPPED} is known",
        )
    if (data.roles.get("default") or "default") == name:
        yield (
            here,
            (
                f"kind `embedder` plays the role rank only, and '{name}' answers for every role without a provider: "
                "name another one `default`, and this one under data.roles: {rank: ...}"
            ),
        )
    for role, provider in data.roles.items():
        if provider == name and role not in ("rank", "default"):
            yield (
                ("data", "roles", role),
                f"provider '{name}' is of kind `embedder`, which plays the role rank only; name another",
            )


def idle(data: DataSection) -> Iterator[tuple[Loc, str, Loc]]:
    """Options that nothing reads in this run: (place, reason, the option that makes it so)."""
    embedder, here = data.embedder, ("data", "embedder")
    yield from recipe_encoder.idle(embedder, here)
    if (endpoint := embedder.endpoint) is not None and not endpoint.images:
        for field in sorted({"image_form", "image_tokens"} & endpoint.model_fields_set):
            yield (*here, "endpoint", field), "images is false, so none is sent", (*here, "endpoint", "images")
