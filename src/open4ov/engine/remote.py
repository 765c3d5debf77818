"""Asking a server (`open4ov serve`, or any other of the OpenAI API) instead of a model at hand."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from typing import Any

import openai
from PIL import Image

from open4ov.errors import UserError


def stream(
    base_url: str,
    key: str,
    question: str,
    images: Sequence[Image.Image] = (),
    *,
    max_tokens: int,
    temperature: float,
    seed: int,
) -> Iterator[str]:
    """The answer of the server's first model piece by piece. `base_url` ends in /v1. Raises UserError."""
    client = openai.OpenAI(api_key=key or "none", base_url=base_url, max_retries=1)
    content: list[Any] = [{"type": "image_url", "image_url": {"url": _data_url(image)}} for image in images]
    content.append({"type": "text", "text": question})
    try:
        model = next(iter(client.models.list())).id
        for chunk in client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": content}],
            max_tokens=max_tokens,
            temperature=temperature,
            seed=seed,
            stream=True,
        ):
            if chunk.choices and chunk.choices[0].delta.content:
                yield chunk.choices[0].delta.content
    except StopIteration:
        raise UserError(f"{base_url}: the server has no model") from None
    except openai.APIStatusError as error:
        said = error.body.get("message") if isinstance(error.body, dict) else None
        hint = "; --api-key-env names the variable with its key" if error.status_code == 401 else ""
        raise UserError(f"{base_url}: HTTP {error.status_code}: {said or 'no reason given'}{hint}") from None
    except openai.APIError as error:
        raise UserError(
            f"{base_url}: {type(error).__name__}; is the server up, and does the address end in /v1?"
        ) from None


def _data_url(image: Image.Image) -> str:
    data = io.BytesIO()
    image.save(data, "PNG")
    return f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}"
