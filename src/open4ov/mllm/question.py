"""By what a question to an endpoint is known again: everything that decides its answer."""

from __future__ import annotations

from open4ov.mllm import reply
from open4ov.mllm.ask import Request, version
from open4ov.mllm.cache import key
from open4ov.mllm.local import DEFAULT_URL
from open4ov.recipe_providers import ProviderSection


def known_as(request: Request, text: str, settings: ProviderSection) -> bytes:
    """The key of the answer. `text`: the prompt, rendered."""
    return key(
        role=request.role,  # two judges are two, though one model plays them
        endpoint=settings.cache_as or settings.base_url or DEFAULT_URL,
        model=settings.model,
        parameters=[settings.temperature, settings.max_tokens],
        schema=reply.schema(request.schema).text,
        prompt=version(request.prompt.template),
        messages=[["user", [picture.sha for picture in request.images], text]],
    )
