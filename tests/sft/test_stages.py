"""The training stages one after another, as the pipeline runs them, with the tiny model and a handful of samples."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import moe_config

from open4ov.corpora import generate, in_car
from open4ov.errors import UserError
from open4ov.graph import StageRun
from open4ov.model import Processor, Qwen3VL, lora
from open4ov.progress import Quiet
from open4ov.recipe import Recipe
from open4ov.rl.hallucination import KINDS
from open4ov.sft import curriculum, deficit, planning, pupil, sets, short
from open4ov.sft.encoding import Encoder
from open4ov.sft.fit import fit
from open4ov.stages import dpo, rl, rl_pool
from open4ov.stages import sets as sets_stage
from open4ov.stages import sft as sft_stage
from open4ov.store import ImageStore, read_samples, write_samples

RECIPE: dict[str, Any] = {
    "name": "tiny",
    "admission": {"mastery": {"rollouts": 2, "samples": 6}},
    "sft": {
        "pack_tokens": 512,
        "knowledge": {"tokens": 1500},
        "ability": {"tokens": 1500, "replay": 0.3, "freeze_vision": True},
        "preference": {"tokens": 1500, "replay": 0.3, "learning_rate": 3e-4},
    },
    "rl": {"steps": 2, "prompts": 3, "group": 4, "minibatches": 2, "pass_k": 2, "max_tokens": 8, "length_max": 8,
           "length_soft": 4},
    "dpo": {"pairs": 20, "batch": 8},
}  # fmt: skip


SETS = ("sets", "preference_set")


class Run:
    """A run directory in which stages can be called by hand."""

    def __init__(self, root: Path, model: Path, **sft_options: object) -> None:
        self.root = root
        settings = {**RECIPE, "model": str(model), "sft": {**RECIPE["sft"], **sft_options}}
        self.recipe = Recipe.model_validate(settings)
        self.store = ImageStore(root / "store")
        vertical = [item.store(self.store) for item in islice(in_car.items("train", 1), 0, 400, 13)]
        general = [item.store(self.store) for task in TASKS for item in generate(task, "train", 5)]
        for name, samples in (("samples", vertical), ("general", general)):
            write_samples(root / "data" / f"{name}.parquet", samples)
        sets_stage.run(self.stage("sets", ()))
        sets.build_preference(self.stage("preference_set", ("sets",)))

    def stage(self, name: str, inputs: tuple[str, ...]) -> StageRun:
        for folder in (self.root / name, self.root / f"{name}.scratch"):
            folder.mkdir(exist_ok=True)
        return StageRun(
            recipe=self.recipe,
            out=self.root / name,
            scratch=self.root / f"{name}.scratch",
            inputs={n: self.root / n for n in ("images", "data", *SETS, *inputs)},
            images=self.store,
            seed=0,
            stage=name,
            _reporter=Quiet(),
        )

    def read(self, name: str, file: str) -> Any:
        return json.loads((self.root / name / file).read_text())


TASKS = ("colour", "counting", "reasoning", "arithmetic", "instruction")


@pytest.fixture(scope="module")
def finished(tiny_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = Run(tmp_path_factory.mktemp("run"), tiny_dir)
    before: tuple[str, ...] = ()
    for stage in planning.STAGES:
        sft_stage.run(run.stage(f"sft_{stage}", before), stage)
        before = (f"sft_{stage}",)
    rl_pool.run(run.stage("rl_pool", ()))
    rl.run(run.stage("rl", ("rl_pool", *before)))
    dpo.run(run.stage("dpo", ("rl",)))
    return run


def test_every_stage_leaves_a_model_that_goes_on_from_the_one_before(finished: Run, tiny_dir: Path) -> None:
    folders = [tiny_dir, *(finished.root / n / "model" for n in ("sft_knowledge", "sft_ability", "sft_preference"))]
    states = [Qwen3VL.from_pretrained(folder).state_dict() for folder in folders]
    towers = [torch.equal(a["vision.patch.weight"], b["vision.patch.weight"]) for a, b in pairwise(states)]
    assert towers == [False, True, False]
    preference, online, offline = (
        Qwen3VL.from_pretrained(finished.root / n / "model").state_dict() for n in ("sft_preference", "rl", "dpo")
    )
    for name, value in preference.items():
        assert torch.equal(value, online[name]) or not name.startswith("vision."), name
        assert torch.equal(value, offline[name]) or not name.startswith("vision."), name
    assert not torch.equal(online["text.embed.weight"], offline["text.embed.weight"])
    Processor.from_pretrained(finished.root / "dpo" / "model")


def test_dpo_goes_part_of_the_way(finished: Run) -> None:
    """`dpo.interpolation`, with the same training: its checkpoints are taken up, and its curve is the same."""
    again = finished.stage("dpo", ("rl",))
    out = finished.root / "dpo_part"
    out.mkdir()
    settings = finished.recipe.model_dump()
    settings["dpo"]["interpolation"] = 0.25
    dpo.run(replace(again, recipe=Recipe.model_validate(settings), out=out))
    start, whole, part = (
        Qwen3VL.from_pretrained(finished.root / n / "model").state_dict() for n in ("rl", "dpo", "dpo_part")
    )
    assert finished.read("dpo_part", "curve.json") == finished.read("dpo", "curve.json")
    for name, value in part.items():
        torch.testing.assert_close(value, start[name] + 0.25 * (whole[name] - start[name]), atol=1e-6, rtol=1e-5)
    assert not torch.equal(part["text.embed.weight"], start["text.embed.weight"])


def test_dpo_on_at_most_so_many_pairs(finished: Run) -> None:
    again = finished.stage("dpo", ("rl",))
    out, scratch = finished.root / "dpo_most", finished.root / "dpo_most.scratch"
    out.mkdir()
    scratch.mkdir()
    settings = finished.recipe.model_dump()
    settings["dpo"] |= {"mix": {"brevity": 1.0}, "most": 3, "probe": 0}
    dpo.run(replace(again, recipe=Recipe.model_validate(settings), out=out, scratch=scratch))
    summary = finished.read("dpo_most", "summary.json")
    assert summary["pairs"] == len(read_samples(out / "pairs.parquet")) == 3
    assert summary["counts"]["brevity"] == 3
    assert summary["left_out"]["not_drawn"] > 3


def test_the_records_say_what_was_done(finished: Run) -> None:
    for stage in planning.STAGES:
        summary = finished.read(f"sft_{stage}", "summary.json")
        curve = finished.read(f"sft_{stage}", "curve.json")
        assert summary["stage"] == stage
        assert summary["steps"] == len(curve) > 1
        assert summary["tokens"] >= 1500
        assert sum(point["tokens"] for point in curve) == summary["tokens"]
        lines = (finished.root / f"sft_{stage}" / "train.jsonl").read_text().splitlines()
        assert [json.loads(line)["loss"] for line in lines] == [point["loss"] for point in curve]
        graded = read_samples(finished.root / f"sft_{stage}" / "samples.parquet")
        assert sum(summary["mastery"].values()) == len(graded) == summary["samples"]
    knowledge = read_samples(finished.root / "sft_knowledge" / "samples.parquet")
    assert {s.mastery for s in knowledge} == {"unmastered", None}  # six samples do not reach every topic
    assert sum(s.extra["graded_by"] == "rollouts" for s in knowledge if s.mastery) == 6
    (grading,) = finished.read("sft_knowledge", "mastery.json")["gradings"]
    assert (grading["rolled_out"], grading["responses"]) == (6, 12)
    assert grading["levels"]["unmastered"] == sum(s.mastery == "unmastered" for s in knowledge)
    assert finished.read("sft_knowledge", "mastery_cost.json")["gradings"][0]["now"]["rollouts"] == 12
    assert (finished.root / "rollouts" / "rollouts.sqlite").is_file()
    kinds = {s.extra["preference"] for s in read_samples(finished.root / "sft_preference" / "samples.parquet")}
    assert "high_difficulty" in kinds
    assert "long_context" in kinds
    assert len(finished.read("rl", "curve.json")) == 2
    counts = finished.read("dpo", "summary.json")["counts"]
    pairs = read_samples(finished.root / "dpo" / "pairs.parquet")
    assert (
        len(pairs)
        == finished.read("dpo", "summary.json")["pairs"]
        == sum(n for kind, n in counts.items() if kind in KINDS)
    )
    assert all(pair.rejected for pair in pairs)
    lines = (finished.root / "dpo" / "train.jsonl").read_text().splitlines()
    assert [json.loads(line)["loss"] for line in lines] == [
        point["loss"] for point in finished.read("dpo", "curve.json")
    ]


def test_grading_computes_in_the_precision_of_the_training(
    tiny_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stopped(Exception): ...

    seen: list[torch.dtype | None] = []

    def engine(model: Qwen3VL, processor: Processor, autocast: torch.dtype | None = None) -> None:
        seen.append(autocast)
        raise Stopped

    monkeypatch.setattr(sft_stage, "Engine", engine)
    for precision in ("bf16", "fp32"):
        run = Run(tmp_path / precision, tiny_dir, precision=precision)
        with pytest.raises(Stopped):
            sft_stage.run(run.stage("sft_knowledge", ()), "knowledge")
    assert seen == [torch.bfloat16, None]


def test_random_mix_trains_once_on_the_tokens_of_all_stages(tiny_dir: Path, tmp_path: Path) -> None:
    run = Run(tmp_path, tiny_dir, schedule="random_mix")
    sft_stage.run(run.stage("sft_knowledge", ()), "knowledge")
    summary = run.read("sft_knowledge", "summary.json")
    assert summary["stage"] == "random_mix"
    assert 4500 <= summary["tokens"] < 6500
    assert summary["mastery"] == {"ungraded": summary["samples"]}


def test_the_baselines_have_the_tokens_of_the_curriculum(tiny_dir: Path, tmp_path: Path) -> None:
    """One switch, within a pack; single_stage draws on the knowledge set and its replay, random_mix on all three."""
    plans: dict[str, list[curriculum.Order]] = {}
    own: dict[str, set[str]] = {}
    more = {"knowledge": {"tokens": 6000, "replay": 0.2}, "ability": {"tokens": 3000, "replay": 0.3}}
    for schedule in ("curriculum", "random_mix", "single_stage"):
        run = Run(tmp_path / schedule, tiny_dir, schedule=schedule, **more)
        stage, encoder = run.stage("sft_knowledge", ()), Encoder(Processor.from_pretrained(tiny_dir), run.store)
        if schedule == "curriculum":
            tokens = {name: getattr(run.recipe.sft, name).tokens for name in planning.STAGES}
            plans[schedule] = [
                planning.order(stage, name, planning.material_of(stage, name), encoder, tokens[name])
                for name in planning.STAGES
            ]
            continue
        made = planning.random_mix if schedule == "random_mix" else planning.single_stage
        material, plan = made(stage, encoder)
        plans[schedule], own[schedule] = [plan], {s.id for s in material.own}
        assert len(plan.samples) > 50
    pack = RECIPE["sft"]["pack_tokens"]
    for schedule, made in plans.items():
        assert sum(plan.tokens for plan in made) == pytest.approx(10_500, abs=pack), schedule
    stage = run.stage("sft_knowledge", ())
    assert own["single_stage"] == {s.id for s in planning.material_of(stage, "knowledge").own}
    every = {s.id for name in planning.STAGES for s in planning.material_of(stage, name).own}
    assert own["random_mix"] == every > own["single_stage"]


def test_the_curriculum_has_as_many_tokens_as_the_recipe_says(finished: Run) -> None:
    tokens = sum(finished.read(f"sft_{stage}", "summary.json")["tokens"] for stage in planning.STAGES)
    assert tokens == pytest.approx(4500, abs=RECIPE["sft"]["pack_tokens"])


def test_what_stage_1_lost_decides_the_blend_of_stage_2(tiny_dir: Path, tmp_path: Path) -> None:
    """The whole way on a tiny model: questions kept apart, base and stage 1 asked, shares, tokens drawn."""
    ability = {"tokens": 4000, "replay": 0.25, "blend": "deficit", "blend_floor": 0.4, "probe": 30}
    run = Run(tmp_path, tiny_dir, held_out=0.5, ability=ability, knowledge={"tokens": 600})
    deficit.ask_base(run.stage("probe_base", ()))
    asked = read_samples(run.root / "probe_base" / "probe.parquet")
    kept_apart = {s.id for s in sets.validation(run.root / "sets" / "ability")}
    assert 10 < len(asked) <= 30
    assert {s.id for s in asked} <= kept_apart
    sft_stage.run(run.stage("sft_knowledge", ()), "knowledge")
    answers = run.read("probe_base", "answers.json")
    for i, name in enumerate(answers):  # as if the base had known them
        answers[name]["right"] = asked[i].task in ("colour", "counting")
    (run.root / "probe_base" / "answers.json").write_text(json.dumps(answers))
    deficit.measure_stage(run.stage("deficit", ("probe_base", "sft_knowledge")))
    measured = run.read("deficit", "blend.json")["abilities"]
    assert sum(about["share"] for about in measured.values()) == pytest.approx(1, abs=1e-5)
    assert {name for name, about in measured.items() if about.get("drop", 0) > 0.5} == {"colour", "counting"}
    others = [about["share"] for name, about in measured.items() if name not in ("colour", "counting")]
    assert min(measured["colour"]["share"], measured["counting"]["share"]) > 2 * max(others)
    sft_stage.run(run.stage("sft_ability", ("deficit", "sft_knowledge")), "ability")
    answers[asked[0].id] |= {"right": None, "reason": "it hung"}
    (run.root / "probe_base" / "answers.json").write_text(json.dumps(answers))
    deficit.measure_stage(run.stage("deficit", ("probe_base", "sft_knowledge")))
    again = run.read("deficit", "blend.json")  # a question without a verdict is left out, and counted
    assert (again["questions"], again["unjudged"]) == (len(asked) - 1, 1)
    blend = run.read("sft_ability", "blend.json")
    assert blend["blend"] == "deficit"
    for about in blend["abilities"].values():
        assert about["ran_out"] or about["drawn"] >= about["share"] - 0.05
    assert run.read("sft_ability", "summary.json")["blend"].keys() == blend["abilities"].keys()


def test_a_short_training_is_not_watched(tiny_dir: Path, tmp_path: Path) -> None:
    """Admission's trainings have no samples of split val, and take the recipe's options."""
    run = Run(tmp_path, tiny_dir, validation={"every": 1})
    run.recipe.admission.assess.tokens = 600
    own = planning.material_of(run.stage("sft_knowledge", ()), "knowledge").own
    short.train(run.recipe, tiny_dir, own, [], run.store, 0, tmp_path / "short")
    assert (tmp_path / "short" / "model" / "model.safetensors").exists()


def test_a_short_training_is_stage_ones(tiny_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pack of its stage, adapters, recomputation, the device, and what becomes of samples that are too long."""
    run = Run(tmp_path, tiny_dir, lora_rank=2, recompute="op", knowledge={"tokens": 1500, "pack_tokens": 128})
    run.recipe.admission.assess.tokens = 600
    own = planning.material_of(run.stage("sft_knowledge", ()), "knowledge").own
    given: dict[str, Any] = {}

    def noted(model: Qwen3VL, encoder: Any, samples: Any, section: Any, *rest: Any, **more: Any) -> Any:
        given.update(pack=section.pack_tokens, adapters=[n for n, _ in model.named_parameters() if lora.is_adapter(n)])
        return fit(model, encoder, samples, section, *rest, **more)

    recomputed: list[tuple[str, str]] = []
    monkeypatch.setattr(short, "fit", noted)
    monkeypatch.setattr(pupil.recompute, "apply", lambda model, *kinds: recomputed.append(kinds))
    short.train(run.recipe, tiny_dir, own, [], run.store, 0, tmp_path / "short")
    assert given["pack"] == 128
    assert given["adapters"]
    assert recomputed == [("op", "none")]
    before, after = (Qwen3VL.from_pretrained(f).state_dict() for f in (tiny_dir, tmp_path / "short" / "model"))
    assert before.keys() == after.keys()  # merged
    assert sorted(path.name for path in (tmp_path / "short").iterdir()) == ["model", "trained.json"]
    run.recipe.sft.too_long, run.recipe.sft.knowledge.pack_tokens = "refuse", 64
    with pytest.raises(UserError, match=r"longer than a pack \(sft\.pack_tokens = 64\)"):
        short.train(run.recipe, tiny_dir, own, [], run.store, 0, tmp_path / "refused")
    if not torch.cuda.is_available():
        run.recipe.sft.device = "cuda"
        with pytest.raises(UserError, match=r"sft\.device: there is no CUDA device"):
            short.train(run.recipe, tiny_dir, own, [], run.store, 0, tmp_path / "cuda")


def test_a_stage_without_data_says_which_set_is_empty_and_why(tiny_dir: Path, tmp_path: Path) -> None:
    run = Run(tmp_path, tiny_dir)
    write_samples(run.root / "data" / "general.parquet", [])
    shutil.rmtree(run.root / "sets")
    sets_stage.run(run.stage("sets", ()))
    with pytest.raises(UserError, match=r"sft\.ability: SFT-Ability is empty: data/general\.parquet has no sample"):
        sft_stage.run(run.stage("sft_ability", ("sft_knowledge",)), "ability")
    run.recipe.sft.knowledge.replay = 0.2
    with pytest.raises(UserError, match=r"sft\.knowledge\.replay is 0\.2: SFT-Ability is empty"):
        sft_stage.run(run.stage("sft_knowledge", ()), "knowledge")


def test_adapters_are_saved_apart_and_merged(tiny_dir: Path, tmp_path: Path) -> None:
    """Only the decoder's layers change, and the stage's model is the base with the stage's adapters in it."""
    run = Run(tmp_path, tiny_dir, schedule="random_mix", lora_rank=2)
    sft_stage.run(run.stage("sft_knowledge", ()), "knowledge")
    folder = run.root / "sft_knowledge"
    base, trained = Qwen3VL.from_pretrained(tiny_dir), Qwen3VL.from_pretrained(folder / "model")
    after = trained.state_dict()
    changed = {name for name, value in base.state_dict().items() if not torch.equal(value, after[name])}
    assert changed == {name for name in after if name.startswith("text.layers.") and "norm" not in name}
    lora.load(base, folder / "adapter.safetensors")
    lora.merge(base)
    for name, value in base.state_dict().items():
        torch.testing.assert_close(value, after[name], msg=lambda m, n=name: f"{n}: {m}")


def test_compiled_experts_want_half_precision(tiny_dir: Path, tmp_path: Path) -> None:
    processor = Processor.from_pretrained(tiny_dir)
    sparse = tmp_path / "sparse"
    processor.save_pretrained(sparse)
    Qwen3VL(moe_config(processor), seed=1).save_pretrained(sparse)
    run = Run(tmp_path / "run", sparse, schedule="random_mix", compile=True, precision="fp32")
    with pytest.raises(UserError, match=r"compiled experts need sft\.precision bf16"):
        sft_stage.run(run.stage("sft_knowledge", ()), "knowledge")
    run = Run(tmp_path / "again", sparse, schedule="random_mix", optimizer="muon", lora_rank=2)
    sft_stage.run(run.stage("sft_knowledge", ()), "knowledge")
    assert {"router_balance", "router_entropy", "busiest_expert"} <= run.read("sft_knowledge", "curve.json")[0].keys()


def test_recomputing_trains_the_same(tiny_dir: Path, tmp_path: Path) -> None:
    curves = []
    for options in ({}, {"recompute": "op", "recompute_vision": "full"}):
        run = Run(tmp_path / str(len(curves)), tiny_dir, schedule="random_mix", precision="fp32", **options)
        run.root.mkdir(exist_ok=True)
        sft_stage.run(run.stage("sft_knowledge", ()), "knowledge")
        curves.append([point["loss"] for point in run.read("sft_knowledge", "curve.json")])
    assert curves[0] == pytest.approx(curves[1], abs=1e-4)


@pytest.mark.slow
def test_what_is_too_long_is_listed_or_cut(tiny_dir: Path, tmp_path: Path) -> None:
    summaries = []
    for choice in ("skip", "cut"):
        run = Run(tmp_path / choice, tiny_dir, schedule="random_mix", too_long=choice, pack_tokens=80)
        sft_stage.run(run.stage("sft_knowledge", ()), "knowledge")
        summaries.append(run.read("sft_knowledge", "summary.json"))
    skipped, cut = summaries
    assert len(skipped["too_long"]) > len(cut["too_long"])
    run = Run(tmp_path / "refuse", tiny_dir, schedule="random_mix", too_long="refuse", pack_tokens=80)
    with pytest.raises(UserError, match=r"samples are longer than a pack \(sft\.pack_tokens = 80\)"):
        sft_stage.run(run.stage("sft_knowledge", ()), "knowledge")
    run = Run(tmp_path / "split", tiny_dir, schedule="random_mix", too_long="split", pack_tokens=80)
    sft_stage.run(run.stage("sft_knowledge", ()), "knowledge")
    assert run.read("sft_knowledge", "summary.json")["split"]
