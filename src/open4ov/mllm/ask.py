"""One way to put a question to a multimodal model: `Asker.ask(role, prompt, images, schema) -> dict`.

The recipe names providers and says which role each of them plays (`data.providers`, `data.roles`); the stages of data
construction name roles only. A prompt keeps its values beside its text: an endpoint reads the text, the offline catalog
reads the values, and both see the same picture.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import jinja2
from PIL import Image
from pydantic import BaseModel, ValidationError

from open4ov.errors import UserError
from open4ov.recipe import DataSection

JUDGES = ("judge_1", "judge_2", "judge_3")
ROLES = ("topics", "rank", "density", "synthesize", *JUDGES, "verify", "documents")


class ProviderError(UserError):
    """A provider cannot work at all: no key, no such host, wrong model. Stops the stage."""


class AnswerError(UserError):
    """One question got no usable answer. The stage skips and lists what it was about."""


@dataclass(frozen=True)
class Picture:
    """An image on its way to a model: its digest, how to load its pixels, and the annotation that came with it, if any.

    Pixels are loaded when a provider looks at them, so that a folder of photographs need not fit in memory.
    """

    sha: str
    load: Callable[[], Image.Image]
    scene: dict[str, Any] | None = None

    @property
    def image(self) -> Image.Image:
        return self.load()


@cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("open4ov.mllm", "prompts"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,
    )


@dataclass(frozen=True)
class Prompt:
    """A template of `prompts/` and the values it is filled with. Values are data: braces in them stay braces."""

    template: str
    values: dict[str, Any]

    @property
    def text(self) -> str:
        return _environment().get_template(f"{self.template}.jinja").render(**self.values)


@dataclass(frozen=True)
class Request:
    """One question to a role, and the schema that its answer must fit."""

    role: str
    prompt: Prompt
    images: Sequence[Picture]
    schema: type[BaseModel]


class Provider(Protocol):
    """Who answers. `concurrency` questions may be open at once; `identity` names the one who plays a role."""

    concurrency: int

    def identity(self, role: str) -> str: ...

    def answer(self, request: Request) -> dict[str, Any]:
        """A JSON object for `request.schema`. Raises `AnswerError` for this question, `ProviderError` for all."""
        ...


class Asker:
    """The providers of a recipe behind one call. Raises `UserError` for a role or provider that does not exist."""

    def __init__(self, section: DataSection, providers: dict[str, Provider] | None = None) -> None:
        self._providers = _build(section) if providers is None else providers
        for role, name in section.roles.items():
            if role != "default" and role not in ROLES:
                raise UserError(f"data.roles: no role {role!r}; the roles are {', '.join(ROLES)}")
            if name not in self._providers:
                raise UserError(f"data.roles.{role}: no provider {name!r} under data.providers")
        self._roles = dict(section.roles)

    def provider(self, role: str) -> Provider:
        name = self._roles.get(role) or self._roles.get("default") or "default"
        if name not in self._providers:
            raise UserError(f"data.roles: no provider for {role!r}: name one, or add data.providers.default")
        return self._providers[name]

    def identity(self, role: str) -> str:
        """Who plays the role, as votes record it: `judge_1:rules`, `judge_1:gpt-4o`."""
        return f"{role}:{self.provider(role).identity(role)}"

    def ask(self, role: str, prompt: Prompt, images: Sequence[Picture], schema: type[BaseModel]) -> dict[str, Any]:
        """The answer, checked against `schema`. Raises `AnswerError` or `ProviderError`."""
        request = Request(role, prompt, images, schema)
        answer = self.provider(role).answer(request)
        try:
            return schema.model_validate(answer).model_dump()
        except ValidationError as error:
            raise AnswerError(f"{self.identity(role)}: the answer does not fit: {_first(error)}") from None

    def ask_many(
        self, requests: Sequence[Request], progress: Callable[[int, int], None] | None = None
    ) -> list[dict[str, Any] | AnswerError]:
        """Answers in the order of the requests; a question without a usable answer yields its `AnswerError`."""

        def one(request: Request) -> dict[str, Any] | AnswerError:
            try:
                return self.ask(request.role, request.prompt, request.images, request.schema)
            except AnswerError as error:
                return error

        # A pool for each provider, so that no endpoint sees more questions at once than its recipe allows.
        pools: dict[int, ThreadPoolExecutor] = {}
        jobs: list[Future[dict[str, Any] | AnswerError] | None] = []
        answers: list[dict[str, Any] | AnswerError] = []
        try:
            for request in requests:
                provider = self.provider(request.role)
                if provider.concurrency == 1:
                    jobs.append(None)
                    continue
                if id(provider) not in pools:
                    pools[id(provider)] = ThreadPoolExecutor(provider.concurrency)
                jobs.append(pools[id(provider)].submit(one, request))
            for request, job in zip(requests, jobs, strict=True):
                answers.append(job.result() if job else one(request))
                if progress:
                    progress(len(answers), len(requests))
        finally:
            for pool in pools.values():
                pool.shutdown(cancel_futures=True)
        return answers


def _build(section: DataSection) -> dict[str, Provider]:
    # Imported here: the catalog loads its symbol library, the client its transport, only where a recipe asks for them.
    providers: dict[str, Provider] = {}
    for name, settings in section.providers.items():
        where = f"data.providers.{name}"
        if settings.kind == "openai":
            from open4ov.mllm.openai import OpenAIProvider

            providers[name] = OpenAIProvider(settings, where)
        elif settings.kind == "engine":
            from open4ov.mllm.engine import EngineProvider

            providers[name] = EngineProvider(settings, where)
        else:
            if settings.base_url or settings.model:
                raise UserError(f"{where}: base_url and model have no effect with kind: catalog; remove them")
            from open4ov.mllm.catalog import CatalogProvider

            providers[name] = CatalogProvider()
    return providers


def _first(error: ValidationError) -> str:
    detail = error.errors(include_url=False)[0]
    return f"{'.'.join(str(part) for part in detail['loc']) or 'answer'}: {detail['msg']}"
