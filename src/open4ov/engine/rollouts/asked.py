"""What a server of rollouts is asked over the wire, and what it answers: what is used of vLLM's
`/inference/v1/generate`, and beside it what only our engine has (`first`, `degeneration`).

As everywhere, no option that is not read is accepted in silence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from open4ov.engine.degeneration import Degeneration
from open4ov.engine.request import LEAST_REPETITION, Completion, Request
from open4ov.engine.serving.faults import Refused
from open4ov.errors import UserError
from open4ov.model import Encoded, Processor
from open4ov.sample import user

MAX_IMAGES = 64
Share = Annotated[float, Field(gt=0, le=1)]
Count = Annotated[int, Field(ge=1, le=1_000_000)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Watched(_Strict):
    """As `engine/degeneration.py` has it."""

    period: Count
    times: Annotated[int, Field(ge=2, le=1_000_000)]
    repeated: Count
    window: Count
    share: Share
    surprise: Annotated[float, Field(gt=0, le=100)]


class Sampling(_Strict):
    """`stop_token_ids`: the closing token, or none where it is to be one like any other; `ignore_eos` has to say that
    the model folder's own list of them does not count. `detokenize` changes nothing here."""

    n: Annotated[int, Field(ge=1, le=16_384)] = 1
    first: Annotated[int, Field(ge=0, le=2**53)] = 0
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)]
    max_tokens: Count
    temperature: Annotated[float, Field(ge=0, le=10)] = 1.0
    top_k: Annotated[int, Field(ge=0)] = 0
    top_p: Share = 1.0
    min_p: Annotated[float, Field(ge=0, le=1)] = 0.0
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    repetition_penalty: Annotated[float, Field(ge=LEAST_REPETITION, le=10)] = 1.0
    stop: Annotated[list[str], Field(max_length=16)] = []
    stop_token_ids: Annotated[list[int], Field(max_length=1)] = []
    ignore_eos: Literal[True]
    detokenize: bool = True
    logprobs: Annotated[int, Field(ge=0, le=1000)] = 0
    prompt_logprobs: Literal[0] | None = None
    degeneration: Watched | None = None


class Picture(_Strict):
    type: Literal["image_url"]
    url: str


class Asked(_Strict):
    """One prompt as tokens, with one placeholder for each picture."""

    token_ids: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
    sampling_params: Sampling
    content_parts: Annotated[list[Picture], Field(max_length=MAX_IMAGES)] = []
    cache_salt: Annotated[str, Field(max_length=1000)] = ""
    return_token_ids: Literal[True] = True


class Reload(_Strict):
    """`/collective_rpc`: of what vLLM's workers can be told, this only."""

    class Where(_Strict):
        weights_path: Annotated[str, Field(min_length=1, max_length=4096)]

    method: Literal["reload_weights"]
    kwargs: Where


class Named(_Strict):
    """`/update_weight_version`."""

    new_version: Annotated[str, Field(min_length=1, max_length=200)]


def to_request(
    asked: Asked, processor: Processor, vocabulary: int, images: list[Image.Image], salt: str
) -> tuple[Request, Encoded]:
    """What the engine is asked, and the conversation as it reads it. `salt`: of whoever asks. Raises Refused."""
    one = asked.sampling_params
    if max(asked.token_ids) >= vocabulary:
        raise Refused(f"the model has {vocabulary} tokens", "token_ids")
    if one.stop_token_ids not in ([], [processor.eos_id]):
        raise Refused(f"the closing token is {processor.eos_id}, and no other ends a response", "stop_token_ids")
    try:
        document = processor.encode_tokens(asked.token_ids, images)
    except UserError as error:
        raise Refused(str(error), "token_ids") from None
    watched = one.degeneration
    try:
        request = Request(
            [user("", len(images))],
            images,
            max_tokens=one.max_tokens,
            temperature=one.temperature,
            top_k=one.top_k,
            top_p=one.top_p,
            n=one.n,
            seed=one.seed,
            stop=tuple(one.stop),
            min_p=one.min_p,
            repetition_penalty=one.repetition_penalty,
            presence_penalty=one.presence_penalty,
            frequency_penalty=one.frequency_penalty,
            top_log_probs=one.logprobs,
            prompt_log_probs=one.prompt_logprobs is not None,
            ignore_eos=not one.stop_token_ids,
            degeneration=Degeneration(**watched.model_dump()) if watched else None,
            salt=f"{salt}/{asked.cache_salt}" if salt or asked.cache_salt else "",
            first=one.first,
        )
    except ValueError as error:
        raise Refused(str(error), "sampling_params") from None
    return request, document


def answer(prompt: Sequence[int], found: Mapping[int, Completion], version: str) -> dict[str, Any]:
    """The completions by number, as vLLM gives them; `version`: the label of the weights that they are by."""
    scores = found[min(found)].prompt_log_probs
    return {
        "choices": [_choice(place, found[index], version) for place, index in enumerate(sorted(found))],
        "prompt_token_ids": list(prompt),
        "prompt_logprobs": [None, *({str(t): {"logprob": v}} for t, v in zip(prompt[1:], scores, strict=True))]
        if scores
        else None,
    }


def _choice(place: int, one: Completion, version: str) -> dict[str, Any]:
    tops = one.top_log_probs or [[] for _ in one.token_ids]
    content = [
        {"token_id": token, "logprob": value, "top_logprobs": [{"token_id": t, "logprob": v} for t, v in top]}
        for token, value, top in zip(one.token_ids, one.log_probs, tops, strict=True)
    ]
    return {
        "index": place,
        "finish_reason": one.finish_reason,
        "token_ids": one.token_ids,
        "weight_versions": [{"version": version, "start": 0, "end": len(one.token_ids)}],
        "logprobs": {"content": content},
    }
