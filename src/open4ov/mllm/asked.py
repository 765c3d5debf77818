"""What is put to a multimodal model, and who answers: pictures, prompts, requests, providers, and how they fail."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import jinja2
from PIL import Image
from pydantic import BaseModel

from open4ov.errors import UserError
from open4ov.mllm.took import Took


class ProviderError(UserError):
    """A provider cannot work at all: no key, no such host, wrong model. Stops the stage."""


class AnswerError(UserError):
    """One question got no usable answer. The stage skips and lists what it was about; `kind` is for counting."""

    def __init__(self, message: str, kind: str = "unanswered", took: Took | None = None) -> None:
        super().__init__(message)
        self.kind, self.took = kind, took
        self.transport = False
        """Whether the reply itself was at fault, and not what the model wrote in it"""


class Answered(dict[str, Any]):
    """An answer that its provider has checked against the schema already, and what it took, where that is known."""

    def __init__(self, answer: dict[str, Any], took: Took | None = None) -> None:
        super().__init__(answer)
        self.took = took


@dataclass(frozen=True)
class Picture:
    """An image on its way to a model: its digest, how to load its pixels, and the annotation that came with it, if any.

    Pixels are loaded when a provider looks at them, so that a folder of photographs need not fit in memory. `encoded`
    gives them as PNG, where they lie in that form already.
    """

    sha: str
    load: Callable[[], Image.Image]
    scene: dict[str, Any] | None = None
    encoded: Callable[[], bytes] | None = None

    @property
    def image(self) -> Image.Image:
        return self.load()

    @property
    def png(self) -> bytes:
        if self.encoded is not None:
            return self.encoded()
        buffer = io.BytesIO()
        self.image.save(buffer, format="PNG")
        return buffer.getvalue()

    @property
    def size(self) -> tuple[int, int]:
        """Width and height, by the first chunk of the PNG where there is one."""
        return png_size(self.encoded()) if self.encoded is not None else self.image.size


def png_size(png: bytes) -> tuple[int, int]:
    """Width and height by the first chunk of a PNG."""
    return int.from_bytes(png[16:20], "big"), int.from_bytes(png[20:24], "big")


@cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("open4ov.mllm", "prompts"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,
        auto_reload=False,
    )


@cache
def version(template: str) -> str:
    """`judge@1`: a template of `prompts/` and the version in its first line, `{# version: 1 #}`.

    Whoever changes what a prompt asks counts it up: kept answers are then asked for again, and samples say which they
    were made with.
    """
    environment = _environment()
    assert environment.loader is not None
    source = environment.loader.get_source(environment, f"{template}.jinja")[0]
    found = re.match(r"\{# version: (\d+) #\}\n", source)
    assert found, f"{template}.jinja: the first line must be {{# version: N #}}"
    return f"{template}@{found[1]}"


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
    """One question to a role, and the schema that its answer must fit.

    `check` may say what else is wrong with an answer that fits (None: nothing): an endpoint is asked again once, with
    what it says.
    """

    role: str
    prompt: Prompt
    images: Sequence[Picture]
    schema: type[BaseModel]
    check: Callable[[dict[str, Any]], str | None] | None = None


class Provider(Protocol):
    """Who answers. `concurrency` questions may be open at once; `identity` names the one who plays a role."""

    concurrency: int

    def identity(self, role: str) -> str: ...

    def answer(self, request: Request) -> dict[str, Any]:
        """A JSON object for `request.schema`. Raises `AnswerError` for this question, `ProviderError` for all."""
        ...
