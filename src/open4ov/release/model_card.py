"""The card beside the weights: README.md with the metadata that the Hugging Face hub reads, `model-index` among it.

Everything in it comes from the run's own records. What was not measured is said not to be.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from open4ov.release import licences
from open4ov.release.data import Released
from open4ov.release.source import Source
from open4ov.release.weights import Precision

TITLES = {
    "sft_knowledge": "SFT 1, knowledge",
    "sft_ability": "SFT 2, ability",
    "sft_preference": "SFT 3, preference",
    "rl": "online RL (GSPO)",
    "dpo": "offline RL (DPO)",
}
_OPTIONS = {
    "rl": ("steps", "prompts", "group", "pass_k", "learning_rate"),
    "dpo": ("pairs", "most", "mix", "epochs", "beta", "nll_weight", "learning_rate", "interpolation"),
}
_NAMED = {"dpo.pairs": "pairs asked for", "dpo.most": "pairs at most"}
"""Options whose name alone would be taken for what was done"""
_SFT_OPTIONS = ("tokens", "learning_rate", "replay", "turns", "freeze_vision")
_READERS = {
    "bf16": "Weights are bfloat16.",
    "fp32": "Weights are float32, as they were trained.",
    "int8": "The decoder's linear layers are INT8 (W8A8, format compressed-tensors), the rest bfloat16. vLLM reads it, "
    "and transformers with the package `compressed-tensors`{dense}; open4ov does not: its engine quantises a bfloat16 "
    "release as it loads (`open4ov serve --quantize int8`).",
    "fp8": "The decoder's linear layers are FP8 (e4m3, W8A8, format compressed-tensors), the rest bfloat16. vLLM reads "
    "it on GPUs that compute FP8, and transformers with the package `compressed-tensors`{dense}; open4ov does not: its "
    "engine quantises a bfloat16 release as it loads (`open4ov serve --quantize fp8`).",
}


@dataclass(frozen=True)
class Told:
    """What a release is called and what its user says of it."""

    name: str
    precision: Precision
    licence: str | None = None
    base_model: str | None = None
    """The base's id on the Hugging Face hub, if it is there"""


def text(source: Source, stage: str, told: Told, sets: Sequence[Released] | None, experts: bool) -> str:
    """The card of one stage's model. `sets`: what of the data is released beside it; None: nothing was asked for."""
    results, base = source.results(stage), source.results("base")
    stated, about_base = licences.of_base(str(source.option("model", "")))
    licence = told.licence or stated
    lines = [
        f"\n# {told.name}\n",
        f"A vision-language model of the Qwen3-VL architecture: {Path(str(source.option('model'))).name}, post-trained "
        f"by open4ov as far as the stage `{stage}`" + (f", {TITLES[stage]}" if stage in TITLES else "") + ".\n",
        _READERS[told.precision].format(dense="" if not experts else " for dense models, which this is not") + "\n",
        *_use(told.precision, experts),
        "## Results\n",
        *_results(stage, results, base),
        "## Training\n",
        *_training(source, stage),
        "## Data\n",
        *_data(sets),
        "## Limits\n",
        *(f"- {line}" for line in _limits(results)),
        "\n## Licence\n",
        about_base,
        "Whether the licences of the training data allow what you mean to do with the weights is for you to judge; "
        + ("they are listed in the data card." if sets else "the run's data lists them.")
        + "\n",
        "## Where it comes from\n",
        *_origin(source, stage),
    ]
    return licences.joined(_front(source, stage, told, licence, results, sets), "\n".join(lines))


def _front(
    source: Source,
    stage: str,
    told: Told,
    licence: str,
    results: Mapping[str, Any] | None,
    sets: Sequence[Released] | None,
) -> dict[str, Any]:
    told_languages: list[Any] = source.option("data.languages") or []
    languages = {str(one) for one in told_languages}
    if sets is not None:
        languages |= {language for one in sets for language in one.card.languages}
    head: dict[str, Any] = {"license": licence, "library_name": "transformers", "pipeline_tag": "image-text-to-text"}
    if languages:
        head["language"] = sorted(languages)
    if told.base_model:
        head["base_model"] = told.base_model
    quantised = ["compressed-tensors"] if told.precision in ("int8", "fp8") else []
    head["tags"] = ["open4ov", "qwen3_vl", *quantised]
    if results is not None:
        head["model-index"] = [{"name": told.name, "results": list(_index(results))}]
    return head


def _index(results: Mapping[str, Any]) -> Sequence[dict[str, Any]]:
    """The suites that are shares of what is right, as the hub's `model-index` has them; values in percent."""
    level = f"{100 * results['confidence']:g} %"
    found: list[dict[str, Any]] = []
    for name, row in cast("dict[str, Any]", results["suites"]).items():
        if row["unit"] != "share" or row["better"] != "higher":  # a rate of faults is no accuracy
            continue
        low, high = (f"{100 * row[end]:.1f}" for end in ("low", "high"))
        metric = {"type": "accuracy", "name": f"{row['title']}, {level} interval {low} to {high}"}
        found.append(
            {
                "task": {"type": "image-text-to-text", "name": row["about"]},
                "dataset": {"type": f"open4ov-{name}", "name": f"open4ov {row['title']}", "split": "test"},
                "metrics": [{**metric, "value": round(100 * row["score"], 2)}],
            }
        )
    return found


def _use(precision: Precision, experts: bool) -> list[str]:
    lines = ["## Use\n"]
    if precision in ("bf16", "fp32"):
        lines += [
            "```python",
            "from transformers import AutoModelForImageTextToText, AutoProcessor",
            'model = AutoModelForImageTextToText.from_pretrained("FOLDER", dtype="auto")',
            'processor = AutoProcessor.from_pretrained("FOLDER")',
            "```\n",
            "or `open4ov ask FOLDER --image FILE QUESTION`, `open4ov serve FOLDER`, `vllm serve FOLDER`.\n",
        ]
    elif experts:
        lines += ["`vllm serve FOLDER`.\n"]
    else:
        lines += [
            "`vllm serve FOLDER`; or, with `pip install compressed-tensors`, "
            '`AutoModelForImageTextToText.from_pretrained("FOLDER")` of transformers.\n',
        ]
    return lines


def shown(value: float, unit: str) -> str:
    """A score as a card prints it: shares in percent."""
    return f"{100 * value:.1f}" if unit == "share" else f"{value:.2f}"


def _results(stage: str, results: Mapping[str, Any] | None, base: Mapping[str, Any] | None) -> list[str]:
    if results is None:
        return [f"This model was not evaluated: the run has no finished stage `evaluate_{stage}`.\n"]
    level = f"{100 * results['confidence']:g} %"
    lines = [
        f"open4ov's own suites, {results['items']} items each, seed {results['seed']}; percent unless said otherwise, "
        f"with {level} intervals. Differences are paired by question; those clear of zero are bold.\n",
        "| suite | items | base | this model | difference |",
        "|---|---|---|---|---|",
    ]
    for kind in ("groups", "suites", "diversity"):  # the last is in newer results only
        compared = cast("dict[str, Any]", (base or {}).get(kind) or {})
        for name, row in cast("dict[str, Any]", results.get(kind) or {}).items():
            unit = row["unit"]
            title = row["title"] + ("" if unit == "share" else f" ({unit})")
            was = compared.get(name)
            lines.append(
                f"| {title} | {row['items']} | {_score(was, unit)} | {_score(row, unit)} | "
                f"{_difference(results, name, unit)} |"
            )
    return [*lines, ""]


def _score(row: Mapping[str, Any] | None, unit: str) -> str:
    if row is None:
        return "–"
    return f"{shown(row['score'], unit)} ({shown(row['low'], unit)} to {shown(row['high'], unit)})"


def _difference(results: Mapping[str, Any], name: str, unit: str) -> str:
    found = results["differences"].get("base", {}).get(name)
    if found is None:
        return "–"
    said = f"{'+' if found['score'] > 0 else ''}{_score(found, unit)}"
    return said if found["low"] <= 0 <= found["high"] else f"**{said}**"


def changed(results: Mapping[str, Any], better: bool) -> list[str]:
    """Titles of the suites whose difference from the base is clear of zero, to the better or to the worse."""
    found: list[str] = []
    for name, row in cast("dict[str, Any]", results["suites"]).items():
        difference = results["differences"].get("base", {}).get(name)
        if difference is None or difference["low"] <= 0 <= difference["high"]:
            continue
        if ((difference["score"] > 0) == (row["better"] == "higher")) == better:
            found.append(row["title"])
    return found


def _training(source: Source, stage: str) -> list[str]:
    lines = ["| stage | what it took | options | seconds |", "|---|---|---|---|"]
    for name in source.trained(stage):
        place = f"sft.{name.removeprefix('sft_')}" if name.startswith("sft_") else name
        keys = [f"{place}.{key}" for key in _OPTIONS.get(name, _SFT_OPTIONS)]
        options = [_option(key, value) for key in keys if (value := source.option(key)) is not None]
        took = _took(source, name)
        seconds = source.stages[name].get("seconds")
        lines.append(f"| {TITLES[name]} | {took or '–'} | {', '.join(options) or '–'} | {seconds or '–'} |")
    schedule = source.option("sft.schedule")
    return [*lines, *([f"\nSchedule of fine-tuning: `{schedule}`."] if schedule else []), ""]


def _took(source: Source, name: str) -> str:
    """What a stage trained on, by its summary.json."""
    summary = source.json(f"{name}/summary.json")
    found = {key: f"{summary[key]:,} {key}" for key in ("samples", "tokens", "pairs", "steps") if key in summary}
    made = cast("dict[str, Any]", source.json("preference_set/summary.json").get("preference") or {})
    own, all_ = made.get("train"), summary.get("samples")
    if name == "sft_preference" and isinstance(own, int) and isinstance(all_, int) and all_ > own:
        more = all_ - own
        found["samples"] += f" ({own:,} of its set, {more:,} of the sets before that the model failed at)"
    if name == "dpo" and (kept := source.option("dpo.validation.pairs")) and "pairs" in found:
        found["pairs"] += f" (up to {kept} of them kept apart for validation)"
    return ", ".join(found.values())


def _option(key: str, value: object) -> str:
    named = _NAMED.get(key, key.rpartition(".")[2])
    if isinstance(value, dict):
        shares = cast("dict[str, Any]", value)
        return f"{named} ({', '.join(f'{kind} {share:g}' for kind, share in shares.items() if share)})"
    return f"{named} {value}"


def _data(sets: Sequence[Released] | None) -> list[str]:
    if sets is None:
        return ["The training data is not part of this release.\n"]
    rows = [f"- `{one.set.name}`: {one.card.samples:,} samples, {one.card.images:,} images" for one in sets]
    return [*rows, "\nCard: `data/README.md` of the release.\n"]


def _limits(results: Mapping[str, Any] | None) -> list[str]:
    lines: list[str] = []
    if results is not None:
        if worse := changed(results, better=False):
            lines.append(f"Clearly worse than the base at: {', '.join(worse)}.")
        else:
            lines.append("No suite came out clearly worse than the base; small losses are within the intervals.")
        lines.append(
            "The suites are open4ov's own and are drawn from the same corpora as the training data, with other "
            "pictures and compositions. They say little about photographs or other domains."
        )
    else:
        lines.append("Nothing is known of its quality.")
    lines.append("It can be wrong with confidence. It was not tested for safety; keep a person in the loop.")
    return lines


def _origin(source: Source, stage: str) -> list[str]:
    versions = cast("dict[str, Any]", source.record.get("versions") or {})
    machine = cast("dict[str, Any]", source.record.get("machine") or {})
    rows = {
        "recipe": source.name,
        "seed": source.option("seed"),
        "stage": stage,
        "digest of the stage": source.stages[stage]["digest"],
        "commit of open4ov": source.record.get("commit") or "not known",
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()) or "not known",
        "machine": _machine(machine) or "not known",
    }
    return [*(f"- {key}: {value}" for key, value in rows.items()), ""]


def _machine(machine: Mapping[str, Any]) -> str:
    parts = {"cpu": "{}", "cores": "{} cores", "memory": "{} of memory"}
    return ", ".join(form.format(machine[key]) for key, form in parts.items() if machine.get(key))
