"""What a question to an endpoint is: by what it is known again (everything that decides its answer), and how the
longest answer is said."""

from __future__ import annotations

from urllib.parse import urlsplit

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
        parameters=[settings.temperature, settings.max_tokens, settings.seed],
        pictures=[settings.max_pixels, settings.image_format, settings.jpeg_quality] if request.images else [],
        schema=reply.schema(request.schema).text,
        prompt=version(request.prompt.template),
        messages=[["user", [picture.sha for picture in request.images], text]],
    )


_NOT_BOTH = (".openai.com", ".openai.azure.com", ".cognitiveservices.azure.com", ".services.ai.azure.com")
"""Hosts that answer 400 to a request with both fields"""


def longest(settings: ProviderSection) -> dict[str, int]:
    """The fields of a request that bound its answer.

    OpenAI calls the older `max_tokens` deprecated, and its reasoning models refuse it; LM Studio, Ollama and the older
    llama.cpp know no other, and ignore `max_completion_tokens`, so that an answer has no bound and the budget's hard
    stop none either. vLLM, SGLang, llama.cpp and `open4ov serve` take both, and the newer one wins. So both are sent,
    but for hosts that are known to refuse that; any other that does says so at the first question.
    """
    field = settings.max_tokens_field
    if field is None:
        host = urlsplit(settings.base_url or DEFAULT_URL).hostname or ""
        field = "max_completion_tokens" if f".{host}".endswith(_NOT_BOTH) else "both"
    names = ("max_completion_tokens", "max_tokens") if field == "both" else (field,)
    return dict.fromkeys(names, settings.max_tokens)
