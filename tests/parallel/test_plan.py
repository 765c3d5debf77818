"""What the planner says of time, traffic and meshes, against values worked out by hand; and its command."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from open4ov.cli import app
from open4ov.engine.half import products
from open4ov.errors import UserError
from open4ov.model import Qwen3VL
from open4ov.model.sizes import SIZES
from open4ov.parallel import (
    plan_check,
    plan_copies,
    plan_fsdp,
    plan_hardware,
    plan_memory,
    plan_search,
    plan_time,
    plan_traffic,
)
from open4ov.parallel.mesh import Mesh
from open4ov.parallel.plan_job import Job, Work, model_of
from open4ov.parallel.plan_rollout import rollouts
from open4ov.parallel.plan_spread import Setup
from open4ov.recipe import load
from open4ov.recipe_parallel import ParallelSection

H100 = plan_hardware.find("h100")
RECIPES = Path(__file__).parents[2] / "recipes"
SHIPPED = str(RECIPES / "qwen3-vl-8b.yaml")


def setup(name: str, world: int, tokens: int = 8192, packs: int = 64, **sizes: Any) -> Setup:
    config = SIZES[name]
    options = ParallelSection(**sizes)
    job = Job(name, config, Work((tokens,), predicted=tokens // 4), packs=packs, recompute="full", imbalance=1.0)
    return Setup(job, options, Mesh.of(options, world, config), H100)


def by_axis(one: Setup, rank: int = 0) -> dict[str, float]:
    return {found.axis: found.bytes for found in plan_traffic.of_step(one, rank)}


def test_states_of_one_rank() -> None:
    """8B over eight: 8,767,123,696 parameters of 16 bytes; one rank has an eighth, up to the rounding of odd rows."""
    kept = plan_memory.states_of(setup("8B", 8), 0)
    assert kept.total == pytest.approx(8_767_123_696 * 16 / 8, rel=1e-3)


def test_traffic_of_each_axis() -> None:
    tokens, hidden, layers, m = 8192, 4096, 36, 8
    # each layer gathers and scatters twice forward, as often backward, and gathers again where it is computed again
    tp = by_axis(setup("8B", 8, tp=2, packs=32))["tp"]
    assert tp == (8 + 4) * (1 / 2) * tokens * hidden * 2 * layers * m
    # 32 + 32 heads out and back, 8 + 8 key-value heads, 128 wide, three times with the pass that is done again
    cp = by_axis(setup("8B", 8, cp=2, packs=32))["cp"]
    assert cp == 3 * (1 / 2) * (tokens / 2) * (2 * 32 + 2 * 8) * 128 * 2 * layers * m
    # eight rows of 2,048 for each token, there and back, forward, again and backward
    ep = by_axis(setup("30B-A3B", 8, ep=8))["ep"]
    assert ep == 6 * (7 / 8) * tokens * 8 * 2048 * 2 * 48 * 8
    # layers are gathered twice a pass, in bf16, embedding and head once, and gradients reduced once, in float32
    language = 8_767_123_696 - 576_388_336 - 4096  # without the tower, which has no picture, and the norm
    words = 2 * 151_936 * 4096
    fsdp = by_axis(setup("8B", 8, packs=8))["fsdp"]
    assert fsdp == pytest.approx((7 / 8) * (words * 8 + (language - words) * 8), rel=1e-6)
    fsdp = by_axis(setup("8B", 8, packs=8, gather="fp32"))["fsdp"]
    assert fsdp == pytest.approx((7 / 8) * (words * 8 + (language - words) * 12), rel=1e-6)


def test_a_ring_leaves_nodes_by_all_their_ports() -> None:
    share = H100.link_share * 1e9
    assert plan_traffic.ring(H100, 8, 1) == H100.inside * share
    assert plan_traffic.ring(H100, 64, 1) == 8 * H100.outside * share
    assert plan_traffic.ring(H100, 8, 8) == H100.outside * share
    assert plan_traffic.exchange(H100, 16, 1) == pytest.approx(H100.outside * share * 15 / 8)


def test_mfu_and_time_belong_together() -> None:
    """With one device and nothing to wait for, MFU is the efficiency of the work, weighted by its time."""
    one = setup("2B", 1, packs=1)
    found = plan_time.step(one)
    decoder, vision = plan_time.operations(one)
    assert vision == 0
    assert found.mfu == pytest.approx(decoder / found.total / (H100.peak * 1e12))
    assert found.mfu < max(H100.efficiency.dense, H100.efficiency.head) * 3 / 4 + 1e-9  # a quarter is computed again
    assert found.total == pytest.approx(found.compute + found.recompute + found.exposed + found.optimizer)


def test_more_recomputation_keeps_less_and_takes_longer() -> None:
    job = setup("8B", 8).job
    totals: list[tuple[float, float]] = []
    for mode in ("none", "op", "full"):
        own = Setup(
            Job(job.model, job.config, job.work, job.packs, recompute=mode), ParallelSection(), Mesh(dp_shard=8), H100
        )
        totals.append((plan_memory.fullest(own).parts["activations"], plan_time.step(own).total))
    kept, seconds = zip(*totals, strict=True)
    assert kept[0] > kept[1] > kept[2]
    assert seconds[0] <= seconds[1] < seconds[2]


def test_a_pipeline_waits() -> None:
    found = plan_time.step(setup("8B", 8, pp=4, packs=8))
    assert 0.2 < found.bubble < 0.6  # (p - 1) / (m + p - 1) = 3 / 7, with even stages
    assert plan_time.step(setup("8B", 8, pp=4, packs=256)).bubble < found.bubble


def test_the_search_finds_what_fits() -> None:
    config = SIZES["2B"]
    job = Job("2B", config, Work((1024,) * 8, predicted=2048), packs=8)
    found = plan_search.search(job, 2, H100)
    assert found.best
    assert all(plan.fits and plan.setup.mesh.world == 2 for plan in found.best)
    speeds = [plan.seconds.tokens_per_second for plan in found.best]
    assert speeds == sorted(speeds, reverse=True) or max(speeds) <= 1.01 * speeds[0]
    assert len({plan.setup.mesh for plan in found.best}) == len(found.best)


def test_what_does_not_fit_says_by_how_much() -> None:
    job = Job("32B", SIZES["32B"], Work((8192,), predicted=2048), packs=2)
    found = plan_search.search(job, 2, H100)
    assert not found.best
    assert all(plan.left < 0 for plan in found.near)
    assert found.near[0].memory.total > 33.3e9 * 16 / 2


def test_the_advice_is_of_the_largest_part() -> None:
    """235B-A22B on 256 H100: trainings fit, the whole model on the first process does not, on however many."""
    fixed = ("--fix", "pp=1", "--fix", "tp=1", "--fix", "cp=1")
    told = run("--model", "235b-a22b", "--gpus", "256", *fixed, "--keep", "2")
    assert told.exit_code == 1
    assert "more devices do not help, but ones of more than 476 GB (--hardware) do" in told.output
    assert "--tokens a pack" not in told.output
    before, _, after = told.output.partition("The best by its own memory alone:\n")
    assert "Nothing fits" in before
    lines = after.splitlines()
    assert len(lines) == 2
    assert all("of 85 GB" in line and float(line.split(", ")[-1].split()[0]) < 85 for line in lines)
    # 235 billion parameters of 16 bytes over 16
    told = run("--model", "235b-a22b", "--gpus", "16", "--tokens", "1024", *fixed)
    assert "More devices, or --freeze-vision, take less memory a device" in told.output
    assert "more devices do not help, but ones of more than 476 GB" in told.output
    assert "its own memory alone" not in told.output
    told = run("--model", "30b-a3b", "--gpus", "4", "--fix", "pp=1", "--hardware", "h200")
    assert "More devices, or --freeze-vision, take less memory a device" in told.output
    assert "do not help" not in told.output
    told = run("--model", "2b", "--gpus", "1", "--tokens", "262144", "--document", "2048")
    assert "Fewer --tokens a pack, or --freeze-vision, take less memory" in told.output


@pytest.mark.parametrize(
    ("model", "options", "said"),
    [
        ("nano", ["tp=3"], "with --fix tp=3:\nparallel.tp: the model's 4 attention heads cannot be shared out to 3"),
        ("30b-a3b", ["ep=256"], "with --fix ep=256:\nparallel.ep: 256 ranks cannot share 128 experts evenly"),
        ("nano", ["pp=8"], "with --fix pp=8:\nparallel.pp: 8 stages of the pipeline, but the model has 6 layers"),
        ("8b", ["pp=3"], "with --fix pp=3: 3 does not divide 8; give other --gpus, or another size to --fix"),
        ("8b", ["dp_shard=8", "dp_replicate=8"], "64 does not divide 8; give other --gpus"),
        ("30b-a3b", ["dp_shard=1", "cp=1", "tp=4", "ep=8"], "ep 8 must divide dp_shard x cp x tp, .* folds: 4"),
        ("30b-a3b", ["pp=4", "ep=8"], "ep 8 must divide dp_shard x cp x tp, .* folds: 2"),
        ("8b", ["dp_shard=8"], "with --fix dp_shard=8: 4 packs a step for 8 ranks of dp; give --packs 8 or more"),
    ],
)
def test_an_axis_that_cannot_be_fixed_says_why(model: str, options: list[str], said: str) -> None:
    fixed = [part for one in options for part in ("--fix", one)]
    found = str(run("--model", model, "--gpus", "8", "--packs", "4", *fixed).exception)
    assert found.startswith("no mesh of 8 devices suits")
    assert re.search(said, found)


def test_names_of_models(tmp_path: Path) -> None:
    assert model_of("Qwen3-VL-8B")[1] is SIZES["8B"]
    assert model_of("30b-a3b")[1] is SIZES["30B-A3B"]
    name, config, note = model_of("models/Qwen3-VL-8B-Instruct")
    assert (name, config) == ("qwen3-vl-8b", SIZES["8B"])
    assert "is not here" in note
    (tmp_path / "config.json").write_text(json.dumps(SIZES["2B"].to_dict()))
    assert model_of(str(tmp_path))[1] == SIZES["2B"]
    with pytest.raises(UserError, match="did you mean 'qwen3-vl-8b'"):
        model_of("qwen3-vl-8")


def test_bad_packs_are_told() -> None:
    with pytest.raises(UserError, match="some would have none"):
        plan_search.of(setup("8B", 8, packs=4).job, ParallelSection(), 8, H100)
    with pytest.raises(UserError, match="cannot be"):
        Work.usual(SIZES["8B"], 8192, 2048, 0.8, (48, 64), 0.5)


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["plan", *arguments])


def test_the_command_and_what_it_writes(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    sft = "sft: # stages\n  pack_tokens: 512 # few\n  schedule: curriculum\n"
    path.write_text(f"name: mine # mine\n{sft}\nrl:\n  steps: 0\n")
    options = ("--model", "2b", "--gpus", "2", "--packs", "4", "--keep", "1", "--fix", "tp=1")
    told = run(*options, "--write", str(path))
    assert told.exit_code == 0, told.output
    assert "MFU counts matrix products only" in told.output
    written = load(path)
    assert written.parallel.dp_shard * written.parallel.cp * written.parallel.pp * written.parallel.dp_replicate == 2
    assert (written.sft.pack_tokens, written.sft.accumulate) == (8192, 4)
    assert "name: mine # mine" in path.read_text()
    assert "schedule: curriculum" in path.read_text()
    found = json.loads(run(*options, "--json").stdout)
    assert found["best"][0]["fits"]
    assert set(found["best"][0]["memory"]) >= {"weights", "gradients", "optimizer", "activations"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--gpus", "8"], "give --model and --gpus"),
        (["--model", "8b", "--gpus", "8", "--hardware", "h1000"], "did you mean 'h100'"),
        (["--model", "8b", "--gpus", "8", "--fix", "dp=2"], "no axis is called 'dp'"),
        (["--model", "8b", "--gpus", "8", "--picture", "big"], "expected width x height"),
        (["--model", "8b", "--gpus", "8", "--stage", "sftt"], "did you mean 'sft'"),
        (["--model", "8b", "--gpus", "8", "--set", "seed=1"], "--set: overrides a recipe's options"),
        (["--model", "8b", "--gpus", "8", "--price", "2"], "--price: a cost needs --total-tokens"),
        (["--model", "8b", "--gpus", "8", "--stage", "rl", "--freeze-vision"], "--freeze-vision: RL and DPO"),
        (["--model", "8b", "--gpus", "8", "--total-tokens", "9", "--json"], "--total-tokens: hours and cost"),
        ([SHIPPED, "--stage", "rl"], "--stage: "),
        ([SHIPPED, "--fix", "tp=2"], "--fix: the mesh is the recipe's"),
        ([SHIPPED, "--keep", "5"], "--keep: "),
        ([SHIPPED, "--write", "r.yaml"], "--write: "),
        ([SHIPPED, "--freeze-vision"], "--freeze-vision: "),
        ([SHIPPED, "--total-tokens", "9"], "--total-tokens: "),
        ([SHIPPED, "--price", "9"], "--price: "),
    ],
)
def test_refusals_of_the_command(arguments: list[str], message: str) -> None:
    assert message in str(run(*arguments).exception)


def test_a_recipe_begins_with_a_table_and_tells_conventions_once() -> None:
    told = run(str(RECIPES / "qwen3-vl-30b-a3b.yaml")).stdout
    first, *rows = [line.split() for line in told.splitlines()[:4]]
    assert first == ["training", "fits", "GB", "s/step", "MFU", "mesh"]
    assert [row[:2] for row in rows] == [["sft_knowledge+ability+preference", "NO"], ["rl", "NO"], ["dpo", "yes"]]
    assert all(row[3:5] == ["of", "85"] and "ep 8, recompute" in " ".join(row) for row in rows)
    assert (told.count("MFU counts matrix products"), told.count("Efficiencies: ")) == (1, 1)


def test_the_recipe_that_ships_fits() -> None:
    told = run(str(RECIPES / "qwen3-vl-8b.yaml"), "--json")
    assert told.exit_code == 0, told.output
    plans = json.loads(told.stdout)
    assert {"rl", "dpo"} < set(plans)
    assert all(plan["fits"] for plan in plans.values())
    words = 2 * 151_936 * 4096
    assert plans["rl"]["host"]["moments"] > 8 * (8_767_123_696 - 576_388_336) // 8
    assert plans["sft_knowledge+ability+preference"]["host"]["moments"] == 0
    assert 2 * (8_767_123_696 - 576_388_336) < plans["rl"]["memory"]["rollouts"] < 2 * 8_767_123_696 + words


def test_the_paper_scale_fits_the_gpus_that_its_recipe_names_and_no_smaller_ones() -> None:
    """31 billion parameters of 2 bytes on the first process's GPU, and for RL on each, where an H100 has no room for
    them beside an update."""
    path = str(RECIPES / "qwen3-vl-30b-a3b.yaml")
    told = run(path, "--hardware", "h200", "--json")
    assert told.exit_code == 0, told.output
    plans = json.loads(told.stdout)
    assert all(plan["fits"] for plan in plans.values())
    assert all((60e9 < plan["alone"].get("whole", 0) < 64e9) == (name != "rl") for name, plan in plans.items())
    assert all(plan["host"]["whole"] > 120e9 for plan in plans.values())
    assert 60e9 < plans["rl"]["memory"]["rollouts"] < 64e9
    told = run(path, "--hardware", "h100", "--json")
    assert told.exit_code == 1
    short = [name for name, plan in json.loads(told.stdout).items() if not plan["fits"]]
    assert short == ["sft_knowledge+ability+preference", "rl"]  # the first one with `recompute: full` would fit


def test_an_engine_that_computes_in_bf16_has_the_products_weights_in_it(tiny_dir: Path) -> None:
    model = Qwen3VL.from_pretrained(tiny_dir)
    names = products(model)
    held = sum(p.numel() * (2 if name in names else 4) for name, p in model.named_parameters())
    assert plan_copies.whole(model.config, half=True) == held
    assert names


def engines(world: int, size: str = "8B", **options: Any) -> int:
    one = setup(size, world)
    return plan_copies.engine(replace(one, job=replace(one.job, kind="rl", **options)), 0)


def test_copies_of_the_engine() -> None:
    size = 8_767_123_696 * 4
    assert plan_copies.whole(SIZES["8B"]) == size
    assert engines(8) == size
    assert engines(8, copies=1) == 2 * size
    assert engines(8, engine_half=True) == plan_copies.whole(SIZES["8B"], half=True) < 0.6 * size
    assert engines(1) == 0
    assert engines(8, cached=10) == size + 10 * 147_456
    head = 151_936 * 2048 * 2
    assert engines(1, "2B", cached=10) == head + 10 * 114_688, "a head that is the embedding, in bf16"
    assert engines(1, "2B", cached=10, half=False) == 10 * 2 * 114_688
    assert engines(1, "2B") == 0, "given up with keys and values"
    assert engines(8, frozen_vision=True) == size - 576_388_336 * 4
    assert plan_memory.of_rank(setup("8B", 8), 0).parts["rollouts"] == 0
    piped = setup("8B", 8, pp=2)
    other = replace(piped, job=replace(piped.job, kind="rl", engine="other"))
    assert [plan_copies.engine(other, rank) for rank in (0, 1)] == [0, 0]
    assert plan_memory.host(other).whole == 2 * size


def test_one_process_gathers_nothing() -> None:
    """A GPU alone trains the model as it is: nothing is gathered, sent or laid ready for that."""
    alone = plan_memory.of_rank(setup("2B", 1, packs=1), 0).parts
    assert (alone["unsharded"], alone["buffers"]) == (0, 0)


def test_what_fsdp_puts_together() -> None:
    """Of 2B: the tied embedding; two layers' weights and one's gradient as they are sent; and a gradient in float32
    that is still to be reduced, less the input that its layer has kept."""
    layer = 2048 * (2 * 2048 + 2 * 1024) + 3 * 2048 * 6144 + 2 * 2048 + 2 * 128
    words, kept = 151_936 * 2048, 8192 * 2048 * 4
    half, full = (plan_fsdp.unsharded(setup("2B", 2, gather=gather), 0) for gather in ("auto", "fp32"))
    assert half == plan_fsdp.Unsharded(4 * words, 6 * layer, 10 * layer - kept)
    assert full == plan_fsdp.Unsharded(4 * words, 12 * layer, 16 * layer - kept)
    piped = plan_fsdp.unsharded(setup("2B", 4, pp=2, borders=(14,)), 0)
    assert piped == plan_fsdp.Unsharded(14 * 6 * layer + 2 * 4 * words, layer=2 * layer)
    assert plan_fsdp.unsharded(setup("2B", 1, packs=1), 0) == plan_fsdp.Unsharded(0)


def test_only_the_first_process_has_the_whole() -> None:
    one = setup("8B", 8, pp=2)
    first, second = (plan_memory.of_rank(one, rank) for rank in (0, 1))
    assert first.alone["whole"] == plan_copies.whole(SIZES["8B"], half=True) < 0.6 * 8_767_123_696 * 4
    full = replace(one, job=replace(one.job, half=False))
    assert plan_memory.of_rank(full, 0).alone["whole"] == 8_767_123_696 * 4
    assert first.alone["training"] == first.parts["weights"] + first.parts["optimizer"]
    assert not second.alone
    assert not plan_memory.of_rank(replace(one, job=replace(one.job, kind="rl", whole=False)), 0).alone
    online = replace(one.job, kind="rl", engine_half=True)
    assert plan_memory.of_rank(replace(one, job=online), 0).alone["whole"] == first.alone["whole"]
    assert not plan_memory.of_rank(replace(one, job=replace(online, engine="other")), 0).alone  # on the CPU
    assert not plan_memory.of_rank(setup("2B", 1), 0).alone


def test_host_memory_is_of_parts_but_for_the_first_process() -> None:
    """8B: the largest tensors are embedding and head, 151,936 x 4,096."""
    one = setup("8B", 8)
    kept = plan_memory.states_of(one, 0)
    found = plan_memory.host(one)
    assert found.reading == 151_936 * 4_096 // 8 * 4
    assert found.checkpoint == kept.weights + kept.optimizer
    assert found.whole == 8_767_123_696 * 4
    assert found.moments == 0
    assert plan_memory.host(replace(one, job=replace(one.job, kind="rl", offload=True))).moments == kept.optimizer
    parts = plan_memory.host(setup("8B", 64))
    assert parts.checkpoint < found.checkpoint / 7
    assert parts.reading == found.reading // 8


def test_a_step_of_rollouts_ends_with_its_longest_response() -> None:
    """36 layers of 0.9 ms: 64 rows on each of two devices take as many decoding steps as the longest has tokens; each
    further wave a mean response's."""

    def generated(responses: int, longest: int | None) -> float:
        found = rollouts(SIZES["8B"], responses, 500, 1000, 2, H100, 64, own=True, half=True, longest=longest)
        assert found.bound == "launches by the host"
        assert found.tokens == responses * 1000
        return found.seconds / (36 * 0.9e-3)

    assert generated(128, None) == pytest.approx(1000)
    assert generated(128, 2000) == pytest.approx(2000)
    assert generated(2, 2000) == pytest.approx(2000)
    assert generated(3 * 128, 2000) == pytest.approx(2 * 1000 + 2000)


def test_decoding_reads_the_rows_that_there_are() -> None:
    """A server's step of few rows reads their keys and values, not those of all that it could have."""
    few, many = (rollouts(SIZES["8B"], count, 500, 1000, 1, H100, 256, own=False).step for count in (1, 256))
    assert many - few == pytest.approx(2 * 255 * 1000 * 2 * 36 * 8 * 128 / (3350e9 * 0.5))


@pytest.mark.parametrize("kind", ["rl", "dpo"])
def test_what_has_no_option_is_not_proposed(kind: Any) -> None:
    job = Job("2B", SIZES["2B"], Work((1024,) * 4, predicted=2048), 3, kind=kind, frozen_vision=True, held_vision=True)
    found = plan_search.search(job, 2, H100)
    assert {plan.setup.job.recompute for plan in found.best + found.near} == {"none"}


def test_devices_name_their_sources() -> None:
    for name in plan_hardware.names():
        device = plan_hardware.find(name)
        assert device.sources
        assert device.measured
    assert yaml.safe_load(plan_hardware.FILE.read_text()).keys() == set(plan_hardware.names())


def test_a_plan_on_gpus_says_that_its_times_are_bounds() -> None:
    """The efficiencies are of compiled steps in bf16; a training on several GPUs is not compiled."""
    for device in ("h100", "h200"):
        told = run("--model", "2b", "--gpus", "2", "--packs", "4", "--keep", "1", "--hardware", device)
        last = told.output.splitlines()[-1]
        assert last.startswith("Efficiencies: ")
        assert "bf16 weights and compiled blocks" in last
        assert "MFU is at most, times and costs are at least what is printed" in last


def test_a_plan_is_checked_against_what_is_built() -> None:
    options = ("--model", "nano", "--gpus", "4", "--packs", "8", "--keep", "1", "--fix", "pp=1", "--fix", "tp=2")
    told = run(*options, "--check")
    assert told.exit_code == 0, told.output
    assert told.output.count(": exact: ") == 3  # the first rank, a middle one, the last
    assert "of the full size:\nsft:\nrank 0: exact" in told.output


def test_a_check_says_which_trainings_its_lines_are_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """RL and DPO have the same parts, with a frozen tower: they are built once. (Building itself is tested above.)"""
    held = plan_memory.States(1, 1, 2)
    monkeypatch.setattr(plan_check, "check", lambda setup: [plan_check.Checked(0, held, held, 1)])
    path = tmp_path / "r.yaml"
    path.write_text(
        "name: a\nparallel: {dp_shard: 2}\nsft: {schedule: curriculum, ability: {freeze_vision: true}}\n"
        "rl: {steps: 1}\ndpo: {pairs: 8}\n"
    )
    lines = run(str(path), "--check", "--packs", "2").output.partition("of the full size:\n")[2].splitlines()
    assert lines[::2] == ["sft_knowledge+preference:", "sft_ability, rl, dpo:"]
    found = json.loads(run(str(path), "--check", "--packs", "2", "--json").stdout)["check"]
    assert [one["trainings"] for one in found] == [["sft_knowledge+preference"], ["sft_ability", "rl", "dpo"]]
