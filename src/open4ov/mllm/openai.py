"""The real provider: any OpenAI-compatible endpoint (a hosted model, vLLM, ...), through the official client.

Images travel as PNG data URLs. The answer is asked for as strict JSON schema; one that does not parse or fit is sent
back once with what was wrong. Retries of failed requests are the client's own. The key is read from the environment
variable that the recipe names, and from nowhere else.
"""

from __future__ import annotations

import base64
import io
import os
from typing import Any

import openai
from openai.types.chat import ChatCompletionMessageParam
from pydantic import ValidationError

from open4ov.mllm.ask import AnswerError, Picture, ProviderError, Request
from open4ov.recipe import ProviderSection


class OpenAIProvider:
    """Raises `ProviderError` when built without a model or a key, and when the endpoint refuses to serve."""

    def __init__(self, settings: ProviderSection, where: str) -> None:
        if not settings.model:
            raise ProviderError(f"{where}.model: an openai provider needs a model name")
        key = os.environ.get(settings.api_key_env)
        if not key:
            raise ProviderError(
                f"{where}.api_key_env: the environment variable {settings.api_key_env} is not set; set it to the "
                "endpoint's key (any word for an endpoint without keys)"
            )
        self.concurrency = settings.concurrency
        self._model = settings.model
        self._where = f"{where} ({settings.base_url or 'api.openai.com'})"
        self._client = openai.OpenAI(api_key=key, base_url=settings.base_url)

    def identity(self, role: str) -> str:
        return self._model

    def answer(self, request: Request) -> dict[str, Any]:
        content: list[Any] = [{"type": "image_url", "image_url": {"url": data_url(image)}} for image in request.images]
        content.append({"type": "text", "text": request.prompt.text})
        messages: list[ChatCompletionMessageParam] = [{"role": "user", "content": content}]
        fault = ""
        for _ in range(2):  # the question, then one repair round
            text = self._complete(messages, request)
            try:
                return request.schema.model_validate_json(text).model_dump()
            except ValidationError as error:
                detail = error.errors(include_url=False, include_input=False)[0]
                fault = f"{'.'.join(str(part) for part in detail['loc']) or 'JSON'}: {detail['msg']}"
            complaint = f"That does not fit the schema ({fault}). Answer again with the JSON only."
            messages.append({"role": "assistant", "content": text})
            messages.append({"role": "user", "content": complaint})
        raise AnswerError(
            f"{self._where}, {request.role}: no answer that fits the schema, even when asked again: {fault}"
        )

    def _complete(self, messages: list[ChatCompletionMessageParam], request: Request) -> str:
        try:
            completion = self._client.chat.completions.create(
                model=self._model,
                messages=messages,
                temperature=0,
                response_format={
                    "type": "json_schema",
                    "json_schema": {
                        "name": request.schema.__name__,
                        "schema": request.schema.model_json_schema(),
                        "strict": True,
                    },
                },
            )
        except openai.APIStatusError as error:
            raise ProviderError(
                f"{self._where}: the endpoint answered HTTP {error.status_code} to role {request.role}; "
                "check base_url, model and key"
            ) from None
        except openai.APIError as error:
            raise ProviderError(f"{self._where}: {type(error).__name__} for role {request.role}; is it up?") from None
        if not completion.choices:
            return ""
        return completion.choices[0].message.content or ""


def data_url(picture: Picture) -> str:
    """The picture as a PNG data URL."""
    buffer = io.BytesIO()
    picture.image.save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
