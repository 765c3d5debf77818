"""Stages, keys, resume. The graph here is a small one of the tests' own; the processes and their deaths are real.

Run as a script (`python tests/test_pipeline.py ACTION ROOT ...`) this file is the process that is killed.
"""

from __future__ import annotations

import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from open4ov import memory, pipeline, recipe
from open4ov.errors import UserError
from open4ov.graph import Graph, Stage, StageRun
from open4ov.memory import free_card
from open4ov.mllm.ask import BESIDE, ROLES
from open4ov.progress import Quiet
from open4ov.recipe import Recipe
from open4ov.run_dir import locked
from open4ov.sample import Sample, assistant, user
from open4ov.store import read_samples, write_samples

STEPS = 8


def tick() -> None:
    """A step of work; a child that is to be killed counts these."""


def draw(run: StageRun) -> None:
    samples: list[Sample] = []
    for index in range(3):
        tick()
        sha = run.images.put(Image.new("RGB", (8, 8), (index, run.seed, 7)))
        message = [user("what?", images=1), assistant(str(index))]
        samples.append(Sample(id=str(index), source="toy", task="t", images=[sha], messages=message))
    write_samples(run.out / "samples.parquet", samples)


def train(run: StageRun) -> None:
    """Adds up squares with a checkpoint every third step, as a trainer would."""
    state = {"step": 0, "total": run.seed}
    checkpoint = run.scratch / "state.json"
    if checkpoint.exists():
        state = json.loads(checkpoint.read_text())
    for step in range(state["step"], STEPS):
        tick()
        witness(f"train {step}")
        state = {"step": step + 1, "total": state["total"] + step * step}
        run.progress("adding", step + 1, STEPS)
        if (step + 1) % 3 == 0:
            part = run.scratch / "state.part"
            part.write_text(json.dumps(state))
            os.replace(part, checkpoint)
    (run.out / "model").mkdir()
    (run.out / "model" / "weights.json").write_text(json.dumps(state))


def tell(run: StageRun) -> None:
    tick()
    total = json.loads((run.inputs["train"] / "model" / "weights.json").read_text())["total"]
    pictures = [run.images.get(sample.images[0]).getpixel((0, 0)) for sample in
                read_samples(run.inputs["draw"] / "samples.parquet")]  # fmt: skip
    (run.out / "report.txt").write_text(f"{total} {pictures}")


def witness(text: str) -> None:
    """Notes outside the run directory that a step was really done."""
    if path := os.environ.get("WITNESS"):
        with Path(path).open("a") as file:
            file.write(text + "\n")


def toy(train: Callable[[StageRun], None] = train) -> Graph:
    return Graph(
        [
            Stage("draw", (), lambda recipe: recipe.images, draw),
            Stage("train", ("draw",), lambda recipe: recipe.sft, train),
            Stage("tell", ("draw", "train"), lambda recipe: {}, tell),
        ]
    )


def go(root: Path, seed: int = 0, until: str | None = None, graph: Graph | None = None, **sections: Any) -> list[str]:
    recipe = Recipe(name="toy", seed=seed, threads=1, **sections)
    return [outcome.status for outcome in pipeline.run(recipe, root, Quiet(), until, graph or toy())]


def contents(root: Path) -> dict[str, Any]:
    """All that a run leaves, but for what is measured (times, memory) and the lock."""
    found: dict[str, Any] = {}
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if path.name == "stage.json":
            record = json.loads(path.read_text())
            found[name] = {key: record[key] for key in ("key", "digest", "files", "inputs", "config", "seed")}
        elif path.is_file() and name != ".lock":
            found[name] = path.read_bytes()
    return found


# ---------------------------------------------------------------------------------------------- keys and skipping


def test_a_finished_run_does_nothing_again(tmp_path: Path) -> None:
    assert go(tmp_path) == ["done", "done", "done"]
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/**/*")}
    assert go(tmp_path) == ["skipped", "skipped", "skipped"]
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/**/*")}
    assert (tmp_path / "tell" / "report.txt").read_text().startswith("140 [(0, 0, 7), (1, 0, 7)")


def test_a_stage_leaves_no_free_memory_on_a_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch would keep what the stage had from other processes, vLLM's among them."""
    emptied: list[bool] = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(torch.cuda.is_initialized()))
    for there in (False, True):  # without a context on a card none is made
        with monkeypatch.context() as card:
            card.setattr(torch.cuda, "is_initialized", lambda there=there: there)
            free_card()
    assert emptied == [True]
    stages: list[str] = []
    monkeypatch.setattr(memory, "free_card", lambda: stages.append("one"))
    go(tmp_path)
    assert len(stages) == 3


def test_two_runs_leave_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        go(tmp_path / name)
    first, second = contents(tmp_path / "a"), contents(tmp_path / "b")
    assert first == second
    assert len(first) == 3 * 2 + 3 + 1, "two files of each stage, three images, run.json"


def test_a_changed_option_redoes_its_stage_and_what_follows(tmp_path: Path) -> None:
    go(tmp_path)
    assert go(tmp_path, sft={"grad_clip": 0.5}) == ["skipped", "done", "done"]
    assert go(tmp_path, sft={"grad_clip": 0.5}, rl={"group": 4}) == ["skipped", "skipped", "skipped"]
    assert go(tmp_path, seed=3) == ["done", "done", "done"]
    assert (tmp_path / "tell" / "report.txt").read_text().startswith("143 [(0, 3, 7)")


def test_until_runs_only_what_the_stage_is_made_from(tmp_path: Path) -> None:
    side = Stage("side", ("draw",), lambda recipe: {}, lambda run: (run.out / "x").write_text("x") and None)
    stages = [*toy().stages.values(), side]
    assert go(tmp_path, until="side", graph=Graph(stages)) == ["done", "done"]
    assert not (tmp_path / "train").exists()


def test_a_damaged_output_is_made_again(tmp_path: Path) -> None:
    go(tmp_path)
    (tmp_path / "train" / "model" / "weights.json").write_text("{}")
    assert go(tmp_path) == ["skipped", "done", "skipped"]
    (tmp_path / "draw" / "samples.parquet").unlink()
    assert go(tmp_path) == ["done", "skipped", "skipped"]


def test_the_old_output_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    go(tmp_path)

    def fails(run: StageRun) -> None:
        (run.out / "half").write_text("half")
        assert (tmp_path / "train" / "model" / "weights.json").exists()
        raise UserError("no more")

    with pytest.raises(UserError, match="no more"):
        go(tmp_path, seed=1, graph=toy(fails))
    assert json.loads((tmp_path / "train" / "model" / "weights.json").read_text())["total"] == 140
    assert not (tmp_path / ".work" / "train.new").exists()
    assert go(tmp_path, seed=1) == ["skipped", "done", "done"]


def test_stage_record_and_run_record(tmp_path: Path) -> None:
    go(tmp_path)
    record = json.loads((tmp_path / "train" / "stage.json").read_text())
    drawn = json.loads((tmp_path / "draw" / "stage.json").read_text())
    assert record["inputs"] == {"draw": {"key": drawn["key"], "digest": drawn["digest"]}}
    assert record["seconds"] > 0
    assert 10 * 2**20 < record["peak_bytes"] < 2**40
    assert list(record["files"]) == ["model/weights.json"]
    about = json.loads((tmp_path / "run.json").read_text())
    assert about["recipe"]["name"] == "toy"
    assert set(about["versions"]) > {"open4ov", "python", "torch"}
    assert about["machine"]["cores"] == os.cpu_count()


def test_scratch_of_another_key_is_not_handed_on(tmp_path: Path) -> None:
    def dies(run: StageRun) -> None:
        (run.scratch / "state.json").write_text(json.dumps({"step": 6, "total": 10**6}))
        raise UserError("stop")

    with pytest.raises(UserError, match="stop"):
        go(tmp_path, graph=toy(dies))
    go(tmp_path, sft={"grad_clip": 0.5})
    assert json.loads((tmp_path / "train" / "model" / "weights.json").read_text())["total"] == 140


def test_scratch_of_the_same_key_is_gone_on_with(tmp_path: Path) -> None:
    def dies(run: StageRun) -> None:
        (run.scratch / "state.json").write_text(json.dumps({"step": 6, "total": 10**6}))
        raise UserError("stop")

    with pytest.raises(UserError, match="stop"):
        go(tmp_path, graph=toy(dies))
    go(tmp_path)
    assert json.loads((tmp_path / "train" / "model" / "weights.json").read_text())["total"] == 10**6 + 85
    assert list((tmp_path / ".work").iterdir()) == []


# ---------------------------------------------------------------------------------------------- refusals


def test_an_unknown_stage_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such stage; did you mean 'train'"):
        go(tmp_path / "new", until="trian")
    assert not (tmp_path / "new").exists()


def test_a_run_of_another_recipe_is_refused(tmp_path: Path) -> None:
    go(tmp_path)
    with pytest.raises(UserError, match=r"holds a run of the recipe 'toy', and this recipe is 'other'"):
        pipeline.run(Recipe(name="other"), tmp_path, Quiet(), None, toy())


def test_a_folder_of_other_things_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(UserError, match=r"not empty \(holds thesis.tex\)"):
        go(tmp_path)


def test_a_file_in_place_of_the_run_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match="cannot be written"):
            go(out)


def test_two_runs_at_once_are_refused_and_the_lock_of_the_dead_is_not(tmp_path: Path) -> None:
    root = tmp_path / "run"
    go(root)
    with locked(root), pytest.raises(UserError, match=f"in use by process {os.getpid()} on "):
        go(root)
    child = subprocess.Popen([sys.executable, __file__, "hold", str(root)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "held\n"
    with pytest.raises(UserError, match=f"in use by process {child.pid} on "):
        go(root)
    child.kill()
    child.wait()
    assert str(child.pid) in (root / ".lock").read_text(), "the dead left its name behind"
    assert go(root) == ["skipped"] * 3


def test_a_file_that_is_moved_within_a_folder_of_images_counts(tmp_path: Path) -> None:
    """Samples name their files by where these lie, so a move makes the images anew."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    (tmp_path / "a" / "x.png").write_bytes(b"x")
    recipe = Recipe.model_validate({"name": "x", "images": {"vertical": str(tmp_path)}})
    config = pipeline.graph(recipe).stages["images"].config
    before = config(recipe)
    (tmp_path / "a" / "x.png").rename(tmp_path / "b" / "x.png")
    assert config(recipe) != before
    (tmp_path / "b" / "x.png").rename(tmp_path / "a" / "x.png")
    assert config(recipe) == before


def test_the_standard_graph_has_the_stages_of_the_paper() -> None:
    curriculum = pipeline.graph(Recipe(name="x"))
    assert list(curriculum.stages) == [
        "images", "data", "sets", "preference_set", "rl_pool", "sft_knowledge", "sft_ability", "sft_preference", "rl",
        "dpo", "evaluate_base", "evaluate_sft_knowledge", "evaluate_sft_ability", "evaluate_sft_preference",
        "evaluate_rl", "evaluate_dpo", "report",
    ]  # fmt: skip
    assert [stage.name for stage in curriculum.needed("sft_ability")] == [
        "images",
        "data",
        "sets",
        "sft_knowledge",
        "sft_ability",
    ]
    for schedule in ("random_mix", "single_stage"):
        baseline = pipeline.graph(Recipe.model_validate({"name": "x", "sft": {"schedule": schedule}}))
        assert [name for name in baseline.stages if name.startswith("sft_")] == ["sft_knowledge"]


def test_what_stage_1_loses_is_measured_before_and_after_it() -> None:
    section = {"held_out": 0.1, "ability": {"blend": "deficit"}}
    stages = pipeline.graph(Recipe.model_validate({"name": "x", "sft": section})).stages
    order = ["sets", "preference_set", "probe_base", "rl_pool", "sft_knowledge", "deficit", "sft_ability"]
    assert list(stages)[2:9] == order
    assert stages["probe_base"].inputs == ("sets",), "its answers stay when stage 1 is trained anew"
    assert stages["deficit"].inputs == ("sets", "probe_base", "sft_knowledge")
    assert stages["sft_ability"].inputs == ("sets", "deficit", "sft_knowledge")


def test_the_pool_of_rl_is_made_before_training_but_for_the_leakage_screen() -> None:
    def stages(**rl: object) -> dict[str, Any]:
        return pipeline.graph(Recipe.model_validate({"name": "x", "rl": rl})).stages

    plain = stages()
    assert plain["rl_pool"].inputs == (), "the corpora read nothing of the run"
    assert "rl_pool" in plain["rl"].inputs
    sources = [{"kind": "data", "share": 0.5}, {"kind": "sft", "share": 0.5}]
    assert stages(pool={"sources": sources})["rl_pool"].inputs == ("data", "sets")
    screened = stages(leakage={"rollouts": 8})
    assert screened["rl_pool"].inputs == ("sft_preference",)
    assert list(screened).index("rl_pool") == list(screened).index("rl") - 1
    one, other = (Recipe.model_validate({"name": "x", "rl": {"pool": {"queue": n}}}) for n in (10, 20))
    assert plain["rl"].config(one) == plain["rl"].config(other), "what the pool is like RL sees in its tasks"
    assert plain["rl_pool"].config(one) != plain["rl_pool"].config(other)


def test_an_option_of_a_later_stage_leaves_the_earlier_ones_as_they_are() -> None:
    def configs(**section: object) -> dict[str, Any]:
        stages = pipeline.graph(Recipe.model_validate({"name": "x", "sft": {"held_out": 0.1, **section}})).stages
        return {name: stages[name].config(Recipe.model_validate({"name": "x", "sft": {"held_out": 0.1, **section}}))
                for name in ("sets", "preference_set", "sft_knowledge", "sft_ability", "sft_preference")}  # fmt: skip

    first = configs()
    changed = configs(preference={"tokens": 700_000})
    assert [name for name in first if first[name] != changed[name]] == ["preference_set", "sft_preference"]
    changed = configs(ability={"blend": "deficit", "blend_floor": 0.1})
    assert [name for name in first if first[name] != changed[name]] == ["sft_ability"]


RECIPES = sorted(path for path in (Path(__file__).parents[1] / "recipes").glob("*.yaml") if path.stem != "claims")


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_shipped_recipes_load_and_name_roles_that_there_are(path: Path) -> None:
    chosen = recipe.load(path)
    assert chosen.name == path.stem
    assert {*chosen.data.roles} <= {*ROLES, *BESIDE, "default"}
    assert {*chosen.data.roles.values()} <= {*chosen.data.providers}
    assert "sft_knowledge" in pipeline.graph(chosen).stages
    for schedule in ("random_mix", "single_stage"):  # one switch, and nothing in the file is in its way
        baseline = recipe.load(path, [f"sft.schedule={schedule}"])
        assert "sft_ability" not in pipeline.graph(baseline).stages


def test_the_recipe_of_a_large_model_trains_by_rl_on_imported_sets() -> None:
    """All of RL is on, nothing of it is drawn by the shipped corpora, and what belongs together fits."""
    chosen = recipe.load(RECIPES[0].parent / "qwen3-vl-8b.yaml")
    rl, dpo = chosen.rl, chosen.dpo
    assert {"rl_pool", "rl", "dpo", "evaluate_dpo"} <= set(pipeline.graph(chosen).stages)
    assert rl.steps > 0
    assert dpo.pairs > 0
    assert "corpora" not in {source.kind for source in rl.pool.sources}
    assert sum(source.most or 0 for source in rl.pool.sources) > rl.steps * rl.prompts
    assert rl.rollout.backend == "own"  # on the GPUs that train
    assert rl.max_update_tokens is not None
    assert rl.max_update_tokens > rl.max_tokens
    assert dpo.preferences
    assert dpo.mix["human"] > 0


# ---------------------------------------------------------------------------------------------- kill -9


def whole(root: Path) -> None:
    """Every stage folder that is there is a finished one."""
    for name in ("draw", "train", "tell"):
        folder = root / name
        if folder.exists():
            record = json.loads((folder / "stage.json").read_text())
            present = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
            assert present == {*record["files"], "stage.json"}


@pytest.mark.slow
@pytest.mark.parametrize("before", ["nothing", "a run of another seed"])
def test_killed_at_every_step_and_every_rename_it_ends_the_same(tmp_path: Path, before: str) -> None:
    """A forked process kills itself (SIGKILL) at its n-th step, rename, removal or making of a folder, for each n."""
    go(tmp_path / "expected", seed=1)
    expected = contents(tmp_path / "expected")
    start = tmp_path / "start"
    if before == "nothing":
        start.mkdir()
    else:
        go(start, seed=0)
    command = [sys.executable, __file__, "sweep", str(start), str(tmp_path / "roots")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    roots = sorted((tmp_path / "roots").iterdir())
    assert len(roots) >= 30, "a kill for each of the points"
    for root in roots:
        found = contents(root)
        wanted = expected
        if before != "nothing":  # the images of the former seed stay in the store
            found = {
                name: data for name, data in found.items() if not name.startswith("image-store/") or name in expected
            }
        assert found == wanted, root.name


def test_killed_from_outside_it_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    root, notes = tmp_path / "run", tmp_path / "notes"
    command = [sys.executable, __file__, "slow", str(root)]
    child = subprocess.Popen(command, env={**os.environ, "WITNESS": str(notes)})
    deadline = time.monotonic() + 60
    while not (notes.exists() and len(notes.read_text().splitlines()) >= 5):
        assert time.monotonic() < deadline
        assert child.poll() is None
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    done_before = notes.read_text().splitlines()
    notes.unlink()
    again = subprocess.run(
        [sys.executable, __file__, "fast", str(root)], env={**os.environ, "WITNESS": str(notes)}, check=False
    )
    assert again.returncode == 0
    redone = set(done_before) & set(notes.read_text().splitlines())
    assert len(redone) <= 3, "no more is repeated than lies behind the last checkpoint"
    go(tmp_path / "expected")
    assert contents(root) == contents(tmp_path / "expected")
    assert json.loads((root / "train" / "stage.json").read_text())["resumed"] is True


TINY = """
name: tiny
images: {per_symbol: 1, general_count: 40}
admission:
  mastery: {rollouts: 2, samples: 8}
sft:
  pack_tokens: 1024
  checkpoint_every: 2
  knowledge: {tokens: 10000}
  ability: {tokens: 10000}
  preference: {tokens: 10000}
rl: {steps: 2, prompts: 4, group: 4, pass_k: 2, max_tokens: 16, length_max: 12, length_soft: 6}
dpo: {pairs: 24, batch: 8}
evaluate: {items: 4, samples: 2, sampled_items: 4, max_tokens: 6}
"""
MEASURED = {"stage.json", "report.html", "run.json", ".lock", "train.jsonl", "rollouts.sqlite", "mastery_cost.json"}
"""Files with times in them."""


@pytest.mark.slow
def test_the_whole_paradigm_killed_in_every_stage_ends_the_same(tmp_path: Path, tiny_dir: Path) -> None:
    """The real stages on a tiny random model; SIGKILL at the first sign of progress of each."""
    (tmp_path / "tiny.yaml").write_text(TINY + f"model: {tiny_dir}\n")
    base = [sys.executable, "-m", "open4ov.cli", "run", "tiny.yaml", "--json", "--out"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([*base, "whole"], cwd=tmp_path, env=environment, check=True, stdout=subprocess.DEVNULL)
    killed: list[str] = []
    for _ in range(40):
        child = subprocess.Popen([*base, "broken"], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        for line in child.stdout:
            event = json.loads(line)
            if event["event"] == "progress" and event["stage"] not in killed:
                killed.append(event["stage"])
                child.kill()
                break
        child.communicate()
        if child.returncode == 0:
            break
        assert child.returncode == -signal.SIGKILL
    assert {"images", "data", *pipeline.SFT, "rl", "dpo", "evaluate_base", "evaluate_dpo"} <= set(killed)
    found, expected = (
        {
            path.relative_to(root).as_posix(): path.read_bytes()
            for path in root.rglob("*")
            if path.is_file() and path.name not in MEASURED
        }
        for root in (tmp_path / "broken", tmp_path / "whole")
    )
    assert found == expected
    assert len([name for name in found if name.endswith("model.safetensors")]) == len(pipeline.MODELS)
    broken, whole = (
        {path.parent.name: json.loads(path.read_text())["digest"] for path in root.glob("*/stage.json")}
        for root in (tmp_path / "broken", tmp_path / "whole")
    )
    del broken["report"], whole["report"]  # which tells times, and nothing is made from it
    assert broken == whole, "and so have equal runs equal keys"


@pytest.mark.parametrize("name", ["train.jsonl", "mastery_cost.json", "tensorboard/events"])
def test_what_tells_times_changes_nothing_of_what_is_made_from_a_stage(tmp_path: Path, name: str) -> None:
    def timed(run: StageRun) -> None:
        train(run)
        (run.out / name).parent.mkdir(exist_ok=True)
        (run.out / name).write_text(str(time.perf_counter_ns()))

    records: list[Any] = []
    for number in range(2):
        go(tmp_path / str(number), graph=toy(timed))
        records += [
            json.loads((tmp_path / str(number) / stage / "stage.json").read_text()) for stage in ("train", "tell")
        ]
    assert [records[i]["key"] for i in (0, 1)] == [records[i]["key"] for i in (2, 3)]
    assert records[0]["files"] != records[2]["files"], "and yet it is recorded"


# ---------------------------------------------------------------------------------------------- full disk


def test_a_full_disk_is_said_and_loses_nothing(tmp_path: Path) -> None:
    """A limit on the size of files (RLIMIT_FSIZE) makes real writes fail in the second stage."""
    root = tmp_path / "run"
    limited = subprocess.run(
        [sys.executable, __file__, "limited", str(root)], capture_output=True, text=True, timeout=120, check=False
    )
    assert limited.returncode == 2, limited.stderr
    assert "the disk is full (in stage train); finished stages are kept" in limited.stderr
    assert "Traceback" not in limited.stderr
    assert read_samples(root / "draw" / "samples.parquet")
    assert not (root / ".work" / "train.new").exists(), "the room it took is given back"
    assert go(root, graph=toy(heavy)) == ["skipped", "done", "done"]


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small tmpfs needs root")
def test_a_full_file_system_is_said_and_loses_nothing(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("this container may not mount a tmpfs")
    try:
        with pytest.raises(UserError, match="the disk is full"):
            go(disk / "run", graph=toy(heavy))
        assert read_samples(disk / "run" / "draw" / "samples.parquet")
        assert go(disk / "run", until="draw", graph=toy(heavy)) == ["skipped"]
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def heavy(run: StageRun) -> None:
    (run.out / "weights").write_bytes(bytes(4 * 2**20))
    train(run)


# ---------------------------------------------------------------------------------------------- the process that dies


def _dying(at: int) -> Iterator[None]:
    """Kills this process at the at-th step, rename, removal or making of a folder."""
    count = 0

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            if count == at:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return wrapper

    for name in ("rename", "replace", "mkdir", "unlink", "rmdir"):
        setattr(os, name, counted(getattr(os, name)))
    globals()["tick"] = counted(tick)
    yield


def _sweep(start: Path, roots: Path) -> None:
    go(roots.with_name("warm"), seed=1)  # imports what the children need
    gc.freeze()  # and spares each of them a look through it
    at = 0
    while True:
        at += 1
        root = roots / f"{at:03d}"
        shutil.copytree(start, root)
        child = os.fork()
        if child == 0:
            next(_dying(at))
            go(root, seed=1)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0
            return
        assert os.WTERMSIG(status) == signal.SIGKILL
        whole(root)
        go(root, seed=1)
        assert list((root / ".work").iterdir()) == []


def _main(action: str, root: Path, *rest: str) -> None:
    if action == "sweep":
        _sweep(root, Path(rest[0]))
    elif action == "hold":
        with locked(root):
            print("held", flush=True)
            time.sleep(600)
    elif action == "slow":
        notes = Path(os.environ["WITNESS"])
        # Waits to be killed once five steps are noted: behind the checkpoint of step 3, before the end.
        globals()["tick"] = lambda: time.sleep(
            600 if notes.exists() and len(notes.read_text().splitlines()) >= 5 else 0
        )
        go(root)
    elif action == "fast":
        go(root)
    elif action == "limited":
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20))
        try:
            go(root, graph=toy(heavy))
        except UserError as error:
            print(error, file=sys.stderr)
            sys.exit(2)


if __name__ == "__main__":
    _main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
