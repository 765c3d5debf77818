"""One stage of curriculum SFT (paper §3.2.3): choose and grade the samples, pack them, train, save.

A stage leaves model/ (Hugging Face layout), samples.parquet (its own set with grades), curve.json, blend.json (which
ability had how many tokens), summary.json and train.jsonl; one that trains adapters also adapter.safetensors, which are
merged in model/.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image

from open4ov import asking, assets, journal
from open4ov.errors import UserError
from open4ov.model import Processor, Qwen3VL
from open4ov.parallel.mesh import Mesh
from open4ov.recipe import SftStage
from open4ov.recipe_blend import ONE_STAGE
from open4ov.run_dir import read_json
from open4ov.sample import Sample
from open4ov.sft import curriculum, deficit, planning, pupil, screen, spread
from open4ov.sft.encoding import Encoder
from open4ov.sft.fit import Fit, fit
from open4ov.sft.planning import Stage
from open4ov.store import atomic, read_samples, write_json, write_samples

if TYPE_CHECKING:
    from pathlib import Path

    from open4ov.graph import StageRun

Grade = Callable[[Sequence[Sample], Qwen3VL, Processor, Callable[[str], Image.Image], int], list[Sample]]
"""Samples, the current model, its processor, a picture by its digest, and which iteration of the stage it is (from 0;
from 1 on the samples bring the grades of the one before) -> the samples with their mastery"""

Resample = Callable[[Sequence[Sample], int], list[Sample]]
"""Graded samples and the iteration -> those to train on, by their mastery; some several times, some not at all"""


def run_stage(run: StageRun, stage: Stage, grade: Grade | None, resample: Resample | None = None) -> None:
    """Trains the stage's model from the one before it (the base in the first stage). Resumes from `run.scratch`.
    `grade` gives the difficulty order; None: there is none.

    A stage of several iterations grades before each of them, by the model as it is then, and trains on what `resample`
    draws of that for its part of the tokens; optimizer and schedule run on.

    Under `schedule: random_mix` and `single_stage` the only stage is `knowledge`, with the tokens of all three stages:
    the baselines of the ablation.
    """
    sft = run.recipe.sft.of(stage)
    run = replace(run, recipe=run.recipe.model_copy(update={"sft": sft}))
    recipe, section = run.recipe, run.recipe.sft
    torch.manual_seed(run.seed)
    torch.set_flush_denormal(True)
    baseline = section.schedule in ONE_STAGE
    material = planning.material_of(run, stage)
    planning.check(run, stage, material)
    previous = next((run.inputs[name] for name in run.inputs if name.startswith("sft_")), None)
    start = previous / "model" if previous else assets.base_dir(recipe.model)
    ready = pupil.load if run.crew is None else pupil.skeleton  # many processes read their parts by themselves
    model, processor = ready(start, section, run.seed), Processor.from_pretrained(start)
    processor.check(model.config)
    device = None if run.crew is None else run.crew.world.device
    encoder = pupil.encoder(section, processor, run.images, run.scratch / "features", device)
    options = spread.options_of(recipe, stage)
    school = _School(run, stage, model, encoder, options, start)
    if baseline:
        chosen = planning.random_mix if section.schedule == "random_mix" else planning.single_stage
        school.attend(*chosen(run, encoder))
    else:
        _iterate(school, material, grade, resample)
    encoder.thaw()
    journal.publish(run.scratch / "journal", run.out)
    pupil.save(model, processor, run.out / "model", run.out / "adapter.safetensors")
    school.report()


def idle_ranks(packs: int, ranks: int) -> str:
    """What to do about ranks that get none of the packs of a step; "" where all get some."""
    if packs >= ranks:
        return ""
    return (
        f"sft.accumulate: {packs} packs a step keep only {packs} of {ranks} ranks of packs busy; raise it to {ranks} "
        "or a multiple of that, or start fewer processes"
    )


class _School:
    """A stage under way: what it has been trained on so far, part by part."""

    def __init__(
        self, run: StageRun, stage: Stage, model: Qwen3VL, encoder: Encoder, options: SftStage, start: Path
    ) -> None:
        self.run, self.model, self.encoder, self.options, self.start = run, model, encoder, options, start
        self.stage: Stage = stage
        self.validation = planning.validation_of(run, stage)
        self.parts: list[tuple[curriculum.Material, curriculum.Order]] = []
        self.result = Fit()
        self.leader: spread.Leader | None = None
        if run.crew is not None:
            ranks, packs = Mesh.sized(run.recipe.parallel, run.crew.world.size).size("dp"), run.recipe.sft.accumulate
            if told := idle_ranks(packs, ranks):
                run.note(told)
            task = spread.Task(stage, str(start), str(run.images.root), str(run.scratch), run.seed)
            self.leader = spread.Leader(run.crew, run.recipe, task, encoder)

    @property
    def drawn(self) -> Counter[str]:
        """How often each sample has been trained on."""
        return sum((plan.drawn for _, plan in self.parts), Counter[str]())

    @property
    def tokens(self) -> int:
        return sum(plan.tokens for _, plan in self.parts)

    @property
    def stopped(self) -> bool:
        """Whether validation has ended the stage early."""
        return self.result.carry is not None and self.result.carry.stopped

    def asked(self) -> Qwen3VL:
        """The model as it is now, to answer questions. One that many processes train is asked here, by itself."""
        if self.leader is None:
            return self.model
        section, device = self.run.recipe.sft, self.encoder.device
        if self.model.device.type == "meta":  # nothing has been trained yet
            return asking.model_of(self.start, section.precision, device)
        twin = pupil.skeleton(self.start, section, self.run.seed)
        twin.load_state_dict(dict(self.model.state_dict()), assign=True)
        return asking.made_ready(twin, section.precision, device)

    def attend(self, material: curriculum.Material, plan: curriculum.Order, several: bool = False) -> None:
        """Trains on one part of the stage."""
        run = self.run
        total = self.options.tokens if several else None
        journal, name = run.scratch / "journal", f"{run.recipe.name} {run.stage}"
        if self.leader is not None:
            self.result = self.leader.fit(
                *(self.model, plan.samples, self.validation, total),
                progress=run.progress,
                log=run.log,
                journal=journal,
                name=name,
            )
        else:
            self.result = fit(
                self.model,
                self.encoder,
                plan.samples,
                run.recipe.sft,
                self.options,
                run.scratch / "checkpoints",
                progress=run.progress,
                log=run.log,
                validation=self.validation,
                journal=journal,
                name=name,
                total_tokens=total,
                carry=self.result.carry if several else None,
            )
        self.parts.append((material, plan))

    def report(self) -> None:
        """Writes samples.parquet, curve.json, blend.json and summary.json."""
        run, section = self.run, self.run.recipe.sft
        material, _ = self.parts[-1]
        plans = [plan for _, plan in self.parts]
        write_samples(run.out / "samples.parquet", material.own)
        write_json(run.out / "curve.json", self.result.curve)
        blend = _blend_record(run, self.stage, material, plans, self.encoder)
        write_json(run.out / "blend.json", blend)
        summary = {
            "stage": section.schedule if section.schedule in ONE_STAGE else self.stage,
            "samples": len(material.own),
            "replayed_from": len(material.replay),
            "conversations": sum(len(plan.samples) for plan in plans),
            "epochs": round(sum(plan.epochs for plan in plans), 3),
            "mastery": _levels(material.own),
            "blend": {name: about["tokens"] for name, about in blend["abilities"].items()},
            **self.result.summary,
        }
        listed = {name for plan in plans for name in plan.too_long}
        summary["too_long"] = long = sorted({*listed, *self.result.summary["too_long"]})
        if long:
            run.note(
                f"{len(long)} samples do not fit into a pack ({section.pack_tokens} tokens; "
                f"sft.too_long: {section.too_long}): {screen.listed(long)}"
            )
        if len(plans) > 1:
            summary["iterations"] = [
                {"mastery": _levels(part.own), "tokens": plan.tokens, "epochs": round(plan.epochs, 3)}
                for part, plan in self.parts
            ]
        write_json(run.out / "summary.json", summary)


def _levels(samples: Sequence[Sample]) -> dict[str, int]:
    return dict(sorted(Counter(sample.mastery or "ungraded" for sample in samples).items()))


def _iterate(school: _School, material: curriculum.Material, grade: Grade | None, resample: Resample | None) -> None:
    """A stage of the curriculum: grade, draw, train; as often as the recipe has iterations.

    After a kill the same is done again: grades lie in the scratch folder, and parts that were trained return at once.
    """
    stage, iterations = school.stage, school.options.iterations
    for iteration in range(iterations):
        if grade:
            material = _graded(school, material, iteration, grade)
        whole = _with_failures(material) if stage == "preference" else material
        drawn = whole
        if resample and iterations > 1:
            drawn = _resampled(stage, whole, resample, iteration)
        budget = round(school.options.tokens * (iteration + 1) / iterations) - school.tokens
        plan = planning.order(school.run, stage, drawn, school.encoder, budget, iteration, school.drawn, whole)
        school.attend(whole, plan, several=iterations > 1)
        if school.stopped:
            break


def _graded(school: _School, material: curriculum.Material, iteration: int, grade: Grade) -> curriculum.Material:
    """The material with grades by the current model: of the stage's own set, but in the preference stage, whose own
    questions are mostly not to be verified, of the replayed ones."""
    cache = school.run.scratch / ("graded.parquet" if iteration == 0 else f"graded-{iteration}.parquet")
    preference = school.stage == "preference"
    pool = material.replay if preference else material.own
    if cache.exists():
        graded = read_samples(cache)
    else:
        graded = grade(pool, school.asked(), school.encoder.processor, school.encoder.picture, iteration)
        with atomic(cache) as temporary:
            write_samples(temporary, graded)
    return curriculum.Material(material.own, graded) if preference else curriculum.Material(graded, material.replay)


def _with_failures(material: curriculum.Material) -> curriculum.Material:
    """The preference stage's material, where replayed samples that the model fails altogether join the stage's own:
    the high-difficulty supplement (paper §3.2.3)."""
    failed = [
        s.model_copy(update={"extra": {**s.extra, "preference": "high_difficulty"}})
        for s in material.replay
        if s.mastery == "unmastered" and s.extra.get("graded_by") == "rollouts"
    ]
    return curriculum.Material([*material.own, *failed], material.replay)


def _resampled(stage: Stage, material: curriculum.Material, resample: Resample, iteration: int) -> curriculum.Material:
    """The material with the part that was graded drawn by its grades."""
    pool = material.replay if stage == "preference" else material.own
    try:
        drawn = resample(pool, iteration)
    except ValueError as error:
        raise UserError(f"sft.{stage}, iteration {iteration + 1}: {error}; see admission.mastery.weights") from error
    if pool and not drawn:
        raise UserError(
            f"sft.{stage}, iteration {iteration + 1}: by their grades none of {len(pool)} samples is drawn; give "
            f"sft.{stage}.iterations fewer, or admission.mastery.weights more"
        )
    return (
        curriculum.Material(material.own, drawn)
        if stage == "preference"
        else curriculum.Material(drawn, material.replay)
    )


def _blend_record(
    run: StageRun, stage: Stage, material: curriculum.Material, plans: Sequence[curriculum.Order], encoder: Encoder
) -> dict[str, Any]:
    """blend.json: of each ability of the stage's own set the tokens that it had, and in stage 2 what they were to be
    and why."""
    kind, asked = "fixed", {}
    blend = planning.blend_of(run, material) if stage == "ability" else None
    if blend is not None:
        known = read_json(run.inputs["deficit"] / "blend.json") if "deficit" in run.inputs else None
        kind = "deficit" if known else "by hand"
        asked = known["abilities"] if known else {name: {"share": share} for name, share in blend.shares.items()}
    conversations = [(curriculum.members(one), encoder.length(one)) for plan in plans for one in plan.samples]
    tokens = deficit.tokens_of(conversations, material.own)
    whole = max(sum(tokens.values()), 1)
    drawn, groups = sum((plan.drawn for plan in plans), Counter[str]()), curriculum.by_ability(material.own)
    abilities: dict[str, dict[str, Any]] = {}
    for name in sorted(tokens.keys() | asked.keys()):
        got = tokens.get(name, 0)
        abilities[name] = {**asked.get(name, {}), "tokens": got, "drawn": round(got / whole, 6)}
        if any(name in plan.abilities for plan in plans):
            times = sum(drawn[id] for id in {sample.id for sample in groups[name]})
            abilities[name]["epochs"] = round(times / len(groups[name]), 3)
            abilities[name]["ran_out"] = any(plan.abilities[name][2] for plan in plans if name in plan.abilities)
    scarce = [name for name, about in abilities.items() if about.get("ran_out")]
    if scarce and blend is not None:
        run.note(
            f"{', '.join(scarce)}: gone through {blend.epochs:g} times, short of the share; the rest goes to others"
        )
    return {"blend": kind, "abilities": abilities}
