"""The stage `dpo` of a run: offline RL (paper §4.2.3, stage 2) on pairs of the RL model's own answers, and those of
people. Controls are asked with the questions that stage 3 of SFT derives.

It leaves model/, pairs.parquet (with what each is for in `extra["pair"]`), curve.json, train.jsonl, left_out.json (ids
by reason) and summary.json: pairs by kind and attribute, why drafts made none, the chosen responses' log-probability,
and how many questions without their picture are refused before and after.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from open4ov import asking, journal, training
from open4ov.averaging import interpolate
from open4ov.engine import Engine
from open4ov.functions import function
from open4ov.model import Processor, Qwen3VL
from open4ov.model.checkpoint import each
from open4ov.recipe import DpoSection
from open4ov.recipe_dpo import ABLATED, MADE, VERIFIED
from open4ov.rl import hallucination, tasks
from open4ov.rl.preference import human, mining, mix
from open4ov.rl.preference.probe import Probe, split
from open4ov.rl.preference.screen import FAULTS
from open4ov.rl.preference.training import train
from open4ov.sample import Sample
from open4ov.sft.preference import pool
from open4ov.stages import spread
from open4ov.store import read_samples, write_json, write_samples

if TYPE_CHECKING:
    from open4ov.graph import StageRun

SCARCE = 0.9
"""Of the pairs that a share of `dpo.mix` asks for; where fewer could be made, the run says so"""


def run(run: StageRun) -> None:
    """Makes the pairs and trains the RL model on them."""
    section = run.recipe.dpo
    torch.set_flush_denormal(True)
    start = run.inputs["rl"] / "model"
    device = training.device(section.device, "dpo.device")
    alone = run.crew is None  # else many train it, each its part
    model = (
        Qwen3VL.from_pretrained(start, device=device) if alone else asking.model_of(start, section.precision, device)
    )
    processor = Processor.from_pretrained(start)
    pairs = _pairs(run, model, processor)
    write_samples(run.out / "pairs.parquet", pairs.pairs)
    if run.crew is not None:
        del model  # the training reads its own, in parts, and gives the whole back
        fit, model = spread.preferences(run, start, processor, pairs.pairs)
    else:
        fit = train(
            model,
            processor,
            pairs.pairs,
            run.images.get,
            section,
            run.seed,
            run.progress,
            run.log,
            scratch=run.scratch,
            note=run.note,
            folder=run.scratch / "journal",
            name=f"{run.recipe.name} {run.stage}",
        )
    if section.interpolation < 1:
        interpolate(model, each(start), section.interpolation)
    model.save_pretrained(run.out / "model")
    processor.save_pretrained(run.out / "model")
    left_out = {**pairs.listed, **{name: ids for name, ids in fit.listed.items() if ids}}
    summary: dict[str, Any] = {
        "pairs": len(pairs.pairs),
        "counts": pairs.counts,
        "attributes": mix.attributes(pairs.pairs),
        "left_out": {name: len(ids) for name, ids in left_out.items()},
        **fit.summary,
    }
    if pairs.probe is not None:
        if not alone:
            asking.made_ready(model, section.precision, device)
        after = pairs.probe.ask(_engine(model, processor, section), run.images.get)
        summary["refusal"] = {"before": pairs.before, "after": after}
    for name, ids in fit.listed.items():
        if ids:
            run.note(
                f"{len(ids)} pairs left out: {FAULTS[name]} ({', '.join(ids[:3])}{', ...' if len(ids) > 3 else ''})"
            )
    journal.publish(run.scratch / "journal", run.out)
    write_json(run.out / "left_out.json", left_out)
    write_json(run.out / "curve.json", fit.curve)
    write_json(run.out / "summary.json", summary)


@dataclass
class _Pairs:
    """All pairs of a stage. `counts`: by kind, and why drafts made none; `listed`: ids of what was left out."""

    pairs: list[Sample]
    counts: dict[str, int]
    listed: dict[str, list[str]]
    probe: Probe | None = None
    before: dict[str, Any] | None = None


def _pairs(run: StageRun, model: Qwen3VL, processor: Processor) -> _Pairs:
    section = run.recipe.dpo
    if not section.pairs:
        return _Pairs([], {}, {})
    samples = [
        sample
        for name in ("samples.parquet", "general.parquet")
        for sample in read_samples(run.inputs["data"] / name)
        if sample.split == "train"
    ]
    engine = _engine(model, processor, section)
    bare = texts(samples)
    found = _Pairs([], {}, {})
    if section.probe and any(section.mix.get(kind, 0) > 0 for kind in ABLATED):
        found.probe, samples = split(samples, bare, section.probe, run.seed)
        asked = {sample.id for sample in found.probe.texts}
        bare = [sample for sample in bare if sample.id not in asked]
        found.before = found.probe.ask(engine, run.images.get)
    counts: Counter[str] = Counter()
    if any(section.mix.get(kind, 0) > 0 for kind in MADE):
        made = hallucination.build(
            samples,
            section.pairs,
            engine,
            run.images.get,
            run.seed,
            run.progress,
            put=run.images.put,
            mix=section.mix,
            texts=bare,
            wordings=section.wordings,
        )
        found.pairs += made.pairs
        counts.update(made.counts)
        for kind in MADE:
            wanted = round(section.pairs * section.mix.get(kind, 0))
            if counts[kind] < SCARCE * wanted:
                run.note(f"dpo.mix: {counts[kind]} pairs of {kind} could be made, of {wanted}")
        if made.guessed:
            found.listed["guessed_blind"] = made.guessed
    given: list[Sample] = []
    for path in section.preferences:
        given += human.read(path, images=run.images, note=run.note)
    if section.mined is not None:
        score = function(section.mined, "dpo.mined")
        wanted = round(section.pairs * section.mix.get("mined", 0))
        given += mining.mine(samples, wanted, engine, run.images.get, score, run.seed, run.progress)
    if given:
        chosen = mix.choose(given, section, run.seed)
        found.pairs += chosen.pairs
        counts.update(chosen.counts)
        found.listed |= chosen.listed
        for line in chosen.notes:
            run.note(line)
    if wanted := round(section.pairs * section.mix.get(VERIFIED, 0)):
        own = _verified(run, wanted, engine)
        found.pairs += own
        counts[VERIFIED] = len(own)
    if section.most is not None:
        found.pairs, others = mix.drawn(found.pairs, section.most, run.seed)
        counts.subtract(str(pair.extra["pair"]) for pair in others)
        if others:
            found.listed["not_drawn"] = [pair.id for pair in others]
    found.counts = dict(sorted(counts.items()))
    return found


def _verified(run: StageRun, wanted: int, engine: Engine) -> list[Sample]:
    rl = run.recipe.rl
    pool = tasks.read(run.inputs["rl_pool"], run.images) if rl.steps else []
    reward = function(rl.reward, "rl.reward")
    found = mining.verify(pool, wanted, engine, reward, rl.reward, rl.max_tokens, run.seed, run.progress)
    if len(found) < SCARCE * wanted:
        run.note(
            f"dpo.mix: {len(found)} pairs of {VERIFIED} could be made, of {wanted}: RL has {len(pool)} tasks, and "
            "those that are always or never answered rightly make none"
        )
    return found


def _engine(model: Qwen3VL, processor: Processor, section: DpoSection) -> Engine:
    return Engine(model, processor, autocast=training.autocast(section.precision, model.device))


def texts(samples: Sequence[Sample]) -> list[Sample]:
    """The questions without a picture among the samples, and those that follow from their annotations: in both
    languages, so that the language does not tell which question is refused."""
    return [sample for group in pool.gather(samples).texts.values() for sample in group]
