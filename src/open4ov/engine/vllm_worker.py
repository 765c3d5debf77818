"""vLLM's side of `vllm.py`: a script for the interpreter of vLLM's own environment, told what to do line by line.

It imports nothing of open4ov, which need not be installed there. Every line of the standard input is a JSON object
with `op`: "start" (arguments of vllm.LLM), "generate" or "reload". Every answer is a line of what was the standard
output: {"done": n} while generating, then {"result": ...} or {"error": "..."}. vLLM's own output goes to the standard
error. It ends with its input.
"""

# pyright: reportMissingImports=false, reportAttributeAccessIssue=false
from __future__ import annotations

import base64
import json
import os
import sys
import traceback
from typing import Any

from PIL import Image
from vllm import LLM, SamplingParams
from vllm.sampling_params import RepetitionDetectionParams, RequestOutputKind
from vllm.v1.sample.sampler import Sampler


def log_probs_at_temperature() -> None:
    """Makes the sampler report log p at the request's temperature, before penalties and cuts.

    vLLM has neither: `raw_logprobs` are at temperature 1, `processed_logprobs` after penalties and cuts. In raw mode
    the sampler calls `compute_logprobs` once, on the model's own logits.
    """
    forward = Sampler.forward

    def scaled(self: Any, logits: Any, sampling_metadata: Any, *args: Any, **kwargs: Any) -> Any:
        temperature = sampling_metadata.temperature  # [rows], 0 where greedy; None when all are
        if temperature is None:
            return forward(self, logits, sampling_metadata, *args, **kwargs)
        by = temperature.where(temperature > 0, 1.0)[:, None]
        self.compute_logprobs = lambda own: Sampler.compute_logprobs(own.float() / by)
        try:
            return forward(self, logits, sampling_metadata, *args, **kwargs)
        finally:
            del self.compute_logprobs

    Sampler.forward = scaled


log_probs_at_temperature()  # here, so that the processes of tensor parallelism, which import this file, have it too


def picture(raw: dict[str, Any]) -> Image.Image:
    return Image.frombytes("RGB", tuple(raw["size"]), base64.b64decode(raw["rgb"]))


def sampling(raw: dict[str, Any]) -> SamplingParams:
    loops = raw.pop("repetition_detection", None)
    return SamplingParams(
        **raw,
        repetition_detection=loops and RepetitionDetectionParams(**loops),
        ignore_eos=True,  # vLLM's own list of closing tokens is the model folder's, and longer
        detokenize=bool(raw["stop"]),
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def generate(llm: LLM, images: dict[str, Any], requests: list[dict[str, Any]], tell: Any) -> list[dict[str, Any]]:
    """One answer for each request, in order. A fault ends all of them."""
    shown = {key: picture(raw) for key, raw in images.items()}
    prompts: list[dict[str, Any]] = []
    for request in requests:
        prompt: dict[str, Any] = {"prompt_token_ids": request["prompt"]}
        if request["images"]:
            prompt["multi_modal_data"] = {"image": [shown[key] for key in request["images"]]}
        if request["salt"]:
            prompt["cache_salt"] = request["salt"]
        prompts.append(prompt)
    engine = llm.llm_engine
    found: list[Any] = []
    numbers: list[str] = []
    try:
        numbers = llm.enqueue(prompts, [sampling(request["sampling"]) for request in requests], use_tqdm=False)
        while engine.has_unfinished_requests():
            finished = [output for output in engine.step() if output.finished]
            found += finished
            if finished:
                tell({"done": len(found)})
    finally:
        if len(found) < len(requests):
            engine.abort_request(numbers, internal=True)
    return [answer(output) for output in sorted(found, key=lambda output: int(output.request_id))]  # as they came in


def answer(output: Any) -> dict[str, Any]:
    (one,) = output.outputs
    tokens = list(one.token_ids)
    places = list(zip(tokens, one.logprobs, strict=True))
    prompt = list(output.prompt_token_ids)
    scores = output.prompt_logprobs
    return {
        "prompt": prompt,
        "tokens": tokens,
        "log_probs": [at[token].logprob for token, at in places],
        "top": [sorted(((t, p.logprob) for t, p in at.items()), key=lambda pair: -pair[1]) for _, at in places],
        "prompt_log_probs": scores and [at[t].logprob for t, at in zip(prompt[1:], scores[1:], strict=True)],
        "finish_reason": one.finish_reason,
    }


def reload(llm: LLM, path: str) -> None:
    """Other weights, and nothing kept that was computed with the old ones: keys and values, processed pictures,
    features of pictures (reloading clears the worker's side only)."""
    llm.collective_rpc("reload_weights", kwargs={"weights_path": path})
    if not llm.reset_prefix_cache():
        raise RuntimeError("vLLM could not reset its prefix cache")
    llm.llm_engine.reset_mm_cache()
    llm.llm_engine.reset_encoder_cache()


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever prints goes to the log

    def tell(message: dict[str, Any]) -> None:
        print(json.dumps(message), file=answers, flush=True)

    llm: Any = None
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            if asked["op"] == "start":
                llm = LLM(**asked["arguments"])
                result: Any = None
            elif asked["op"] == "generate":
                result = generate(llm, asked["images"], asked["requests"], tell)
            else:
                result = reload(llm, asked["path"])
            tell({"result": result})
        except Exception as error:
            traceback.print_exc()
            tell({"error": f"{type(error).__name__}: {error}"})


if __name__ == "__main__":
    main()
