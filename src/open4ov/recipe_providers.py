"""The part of the recipe that says who answers the prompts of data construction, and what that may cost."""

from __future__ import annotations

import re
from collections.abc import Iterator
from ipaddress import ip_network
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

from pydantic import Field

from open4ov.errors import nearest
from open4ov.recipe_section import Section
from open4ov.yaml_file import Loc

if TYPE_CHECKING:
    from open4ov.recipe import DataSection

ImageRule = Literal["patch32", "patch28", "tiles"]
_READ = {"engine": ("model", "concurrency"), "embedder": ("others",)}


class PriceSection(Section):
    """What an endpoint takes, in whatever currency `data.budget.money` is counted in."""

    input: float = Field(ge=0, description="for a million tokens of questions, images and schema included")
    output: float = Field(ge=0, description="for a million tokens of answers")


class ProviderSection(Section):
    """Who answers the prompts of data construction (paper §2.2)."""

    kind: Literal["catalog", "openai", "engine", "embedder"] = Field(
        default="catalog",
        description="catalog: shipped annotations; openai: an endpoint; engine: a model in this process; embedder: "
        "data.embedder ranks labels, and asks no model",
    )
    base_url: str | None = Field(default=None, description="OpenAI-compatible endpoint; the key comes from api_key_env")
    model: str | None = Field(
        default=None, description="openai: the endpoint's name of it; engine: its folder, or a shipped one's name"
    )
    api_key_env: str = Field(default="OPENAI_API_KEY", description="name of the environment variable with the key")
    concurrency: int = Field(default=8, ge=1, le=4096, description="most questions open at once")
    timeout: float = Field(default=300.0, gt=0, le=86_400, description="seconds until an answer must be there")
    retries: int = Field(default=4, ge=0, le=100, description="further tries of a question whose request failed")
    max_tokens: int = Field(default=4096, ge=1, description="longest answer, tokens")
    max_tokens_field: Literal["max_completion_tokens", "max_tokens", "both"] | None = Field(
        default=None,
        description="name under which max_tokens is sent; null: both, but max_completion_tokens to OpenAI and Azure, "
        "which refuse both",
    )
    temperature: float | None = Field(default=0.0, ge=0, le=2, description="null: not sent, as some models want it")
    seed: int | None = Field(
        default=None, ge=0, lt=2**31, description="of the endpoint's draws, so that judges of one model can differ"
    )
    max_pixels: int | None = Field(
        default=2048 * 2048, ge=1024, description="larger pictures are scaled down to so many; null: sent as they are"
    )
    image_format: Literal["auto", "png", "jpeg"] = Field(
        default="auto", description="auto: PNG up to 1 MiB of it, else JPEG"
    )
    jpeg_quality: int = Field(default=90, ge=1, le=100, description="of pictures that are sent as JPEG")
    price: PriceSection | None = Field(default=None, description="{input, output} for a million tokens")
    image_tokens: ImageRule | int = Field(
        default="patch32",
        description="tokens of an image, where they must be known beforehand: patch32 (Qwen3-VL), patch28 "
        "(Qwen2.5-VL), tiles (GPT-4o), or a number",
    )
    cache_as: str | None = Field(
        default=None,
        min_length=1,
        description="name under which its answers are kept, for an endpoint whose address changes; base_url when empty",
    )
    others: float | None = Field(
        default=None, ge=-1, le=1, description="embedder: cosine of image and label where Others stands; shipped's own"
    )


class BudgetSection(Section):
    """What the questions of a run may cost at most, over all its starts: no question is sent that could go beyond."""

    tokens: int | None = Field(default=None, ge=1, description="of questions and answers together")
    money: float | None = Field(default=None, ge=0, description="in the currency of the providers' prices")


def contradictions(data: DataSection) -> Iterator[tuple[Loc, str]]:
    """Values of `data.providers` and its neighbours that cannot hold together. Messages never repeat what may be a
    secret."""
    for role, provider in data.roles.items():
        if provider not in data.providers:
            place: Loc = ("data", "roles", role)
            yield place, f"no provider is called '{provider}'{nearest(provider, data.providers)}"
    for name, provider in data.providers.items():
        here: Loc = ("data", "providers", name)
        if provider.kind == "openai" and not provider.model:
            yield here, "kind `openai` needs `model`: the name the endpoint knows it by"
        if provider.kind == "engine" and not provider.model:
            yield here, "kind `engine` needs `model`: a model's folder, or a shipped one's name"
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", provider.api_key_env):
            yield (*here, "api_key_env"), "is no name of an environment variable; put the key there, never in a recipe"
        if provider.base_url is not None and (fault := address_fault(provider.base_url)):
            yield (*here, "base_url"), fault
        if provider.image_format == "png" and "jpeg_quality" in provider.model_fields_set:
            yield (*here, "jpeg_quality"), "has no effect with image_format: png; remove it"
        if isinstance(provider.image_tokens, int) and provider.image_tokens < 0:
            yield (*here, "image_tokens"), f"{provider.image_tokens} is negative"
        if data.budget.money is not None and provider.kind == "openai" and provider.price is None:
            yield (
                (*here, "price"),
                "data.budget.money needs it: price: {input: ..., output: ...} for a million tokens, 0 where it is free",
            )
    for number, host in enumerate(data.local_hosts):
        if "/" in host and not _network(host):
            yield ("data", "local_hosts", number), f"{host} is neither a host's name nor an address nor a network"


def address_fault(url: str) -> str | None:
    """What is wrong with an endpoint's address; None: nothing. Never repeats it, since it may hold a secret."""
    try:
        parts = urlsplit(url)
        port_is_right = parts.port is None or parts.port > 0
    except ValueError:
        parts, port_is_right = urlsplit(""), False
    if parts.scheme not in ("http", "https") or not parts.hostname or not port_is_right:
        return "is no address such as http://127.0.0.1:8000/v1"
    if parts.username or parts.password or parts.query or parts.fragment:
        return "holds a user, a password or a query; keys come from the environment variable that api_key_env names"
    return None


def _network(text: str) -> bool:
    try:
        ip_network(text, strict=False)
    except ValueError:
        return False
    return True


def idle(data: DataSection) -> Iterator[tuple[Loc, str, Loc]]:
    """Options that nothing reads in this run: (place, reason, the option that makes it so)."""
    for name, provider in data.providers.items():
        loc: Loc = ("data", "providers", name)
        offline = {"catalog": "which answers offline", "engine": "which asks no endpoint",
                   "embedder": "which asks data.embedder only"}  # fmt: skip
        if provider.kind in offline:
            reason = f"provider '{name}' is of kind `{provider.kind}`, {offline[provider.kind]}"
            read = {"kind", *_READ.get(provider.kind, ())}
            for field in sorted(provider.model_fields_set - read):
                yield (*loc, field), reason, (*loc, "kind")
        elif "others" in provider.model_fields_set:
            yield (*loc, "others"), f"provider '{name}' asks a model, which places Others itself", (*loc, "kind")
        if name != "default" and name not in data.roles.values():
            yield loc, f"no role in data.roles names provider '{name}'", ("data", "roles")
    asked = data.embedder.endpoint is not None or any(one.kind == "openai" for one in data.providers.values())
    if not asked:
        for field in sorted({"cache", "budget"} & data.model_fields_set):
            yield ("data", field), "no provider is of kind `openai`; nothing is sent or paid", ("data", "providers")
    if not data.local_only and "local_hosts" in data.model_fields_set:
        yield ("data", "local_hosts"), "data.local_only is false, which allows every host", ("data", "local_only")
