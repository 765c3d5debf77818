"""What `data.embedder` and `rl.embedder` have in common: a text names a function, a mapping a model on this machine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import Field, model_validator

from open4ov.recipe_section import Section
from open4ov.yaml_file import Loc


class EncoderOptions(Section):
    """Exactly one of the kinds."""

    name: str | None = Field(default=None, description="package.module:function (texts -> unit rows [n, D])")
    directory: str | None = Field(default=None, min_length=1, description="folder of a model")
    batch: int = Field(default=32, ge=1, le=4096, description="directory: texts or images embedded at once")

    @model_validator(mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value


def contradictions(
    encoder: EncoderOptions, here: Loc, forms: Sequence[str], kinds: Sequence[str], shipped: str | None = None
) -> Iterator[tuple[Loc, str]]:
    """None or several of the `kinds`, of which `forms` tells how each is written, or a name that is none: neither
    `shipped` nor a function's."""
    given = [kind for kind in kinds if getattr(encoder, kind) is not None]
    if len(given) != 1:
        told = f"has {' and '.join(given)}" if given else "names none"
        yield here, f"{told}; give one: {', '.join(forms[:-1])} or {forms[-1]}"
    elif encoder.name is not None and encoder.name != shipped and ":" not in encoder.name:
        known = f"neither {shipped} nor" if shipped else "no"
        told = "a model's folder is written as `directory: PATH`"
        yield here, f"'{encoder.name}' is {known} package.module:function; {told}"


def idle(encoder: EncoderOptions, here: Loc) -> Iterator[tuple[Loc, str, Loc]]:
    """Options that nothing reads in this run."""
    if encoder.directory is None and "batch" in encoder.model_fields_set:
        yield (*here, "batch"), f"{'.'.join(map(str, here))} names no directory", (*here, "directory")
