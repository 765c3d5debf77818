"""vLLM answering over a pipe, one JSON object a line (`bench/engines.py`). Run by the Python of vLLM's venv."""

import json
import sys

import vllm
from PIL import Image
from vllm import LLM, SamplingParams


def say(message):
    print("@" + json.dumps(message), flush=True)


def main():
    directory, dtype = sys.argv[1:]
    llm = LLM(
        model=directory,
        dtype=dtype,
        enforce_eager=True,
        max_model_len=2048,
        max_num_seqs=64,
        limit_mm_per_prompt={"image": 4, "video": 0},
        enable_prefix_caching=False,
        mm_processor_cache_gb=0,
        seed=0,
    )
    jobs = {}
    say({"version": vllm.__version__})
    for line in sys.stdin:
        message = json.loads(line)
        if "work" in message:
            prompts, options = [], []
            for one in message["requests"]:
                prompt = {"prompt_token_ids": one["ids"]}
                if one["images"]:
                    prompt["multi_modal_data"] = {"image": [Image.open(path).convert("RGB") for path in one["images"]]}
                prompts.append(prompt)
                options.append(SamplingParams(temperature=0, max_tokens=one["max_tokens"], ignore_eos=True))
            jobs[message["work"]] = (prompts, options)
            say({})
        else:
            llm.reset_mm_cache()
            llm.reset_prefix_cache()
            if hasattr(llm, "reset_encoder_cache"):
                llm.reset_encoder_cache()
            found = llm.generate(*jobs[message["run"]], use_tqdm=False)
            say({"tokens": [list(one.outputs[0].token_ids) for one in found]})


if __name__ == "__main__":
    main()
