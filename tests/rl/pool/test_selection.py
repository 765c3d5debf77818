"""RL leaves out what its own model always or never answers rightly, with the tiny random model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from open4ov.engine import Engine
from open4ov.errors import UserError
from open4ov.graph import StageRun
from open4ov.model import Processor, Qwen3VL
from open4ov.progress import Quiet
from open4ov.recipe import Recipe, RlSection, load
from open4ov.recipe_rl_rollout import RolloutSection
from open4ov.rl.generation import degenerate
from open4ov.rl.generation.generator import CopyGenerator, OwnGenerator
from open4ov.rl.pool import mixed
from open4ov.rl.tasks import Task, task
from open4ov.rollout_book import FOLDER, Book, Cost, Rollout
from open4ov.rollouts import digest
from open4ov.sample import Sample, assistant, user
from open4ov.stages import rl
from open4ov.store import ImageStore, read_samples, write_json, write_samples

SEEN: list[tuple[str, str]] = []


def rewarded(response: str, sample: Sample) -> float:
    """Tasks of the kinds `easy` and `hard` are always and never right, `mixed` ones now and then."""
    SEEN.append((sample.id, response))
    return float({"easy": True, "hard": False}.get(sample.id.split("-")[0], len(response) % 2 == 0))


def half(response: str, sample: Sample) -> float:
    return 0.5


def tasks() -> list[Task]:
    made: list[Task] = []
    for kind in ("easy", "hard", "mixed"):
        for i in range(4):
            pictures = [Image.new("RGB", (64, 64), (60 * i, 90, 30))] if i < 2 else []
            said = [user(f"{kind} {i}?", images=len(pictures)), assistant("\\boxed{7}")]
            about: dict[str, Any] = {"images": [""] * len(pictures), "messages": said, "answer": "7"}
            made.append(task(Sample(id=f"{kind}-{i}", source="t", task="t", **about), pictures))
    return made


def stored(one: Task, images: ImageStore) -> Sample:
    return one.sample.model_copy(update={"images": [images.put(picture) for picture in one.images]})


def section(**changes: object) -> RlSection:
    options = {
        "precision": "fp32",  # as the engines here, by whose name the book keeps what they said
        "steps": 3,
        "prompts": 2,
        "group": 4,
        "minibatches": 1,
        "pass_k": 2,
        "max_tokens": 6,
        "length_weight": 0.0,
        "text_share": 0.5,
        "reward": f"{__name__}:rewarded",
        "filter": {"rollouts": 8, "candidates": 2},
    }
    return RlSection.model_validate(options | changes)


def test_only_what_is_now_right_now_wrong_is_trained_on(tmp_path: Path, tiny_dir: Path) -> None:
    engine = Engine(Qwen3VL.from_pretrained(tiny_dir), Processor.from_pretrained(tiny_dir))
    images, chosen = ImageStore(tmp_path / "image-store"), section()
    assert mixed.candidates(chosen) == 12
    given = tasks()

    def select() -> mixed.Selected:
        return mixed.select(given, engine, "m", chosen, rewarded, images, Book(tmp_path / "book"), 0)

    found = select()
    assert [one.sample.id for one in found.tasks] == ["mixed-0", "mixed-1", "mixed-2", "mixed-3"]
    assert [one.sample.id for one in found.never] == [f"hard-{i}" for i in range(4)]
    counts = {"candidates": 12, "rollouts": 8, "kept": 4, "all_right": 4, "all_wrong": 4, "unknown": 0}
    assert found.figures == {**counts, "used": 4, "text": 2}
    assert found.cost.rollouts == 96
    assert images.get(found.tasks[0].sample.images[0]).size == (64, 64)
    again = select()
    assert (again.cost.rollouts, again.cost.found) == (0, 96), "they are in the book, under RL's own model and sampling"
    assert (again.figures, [t.sample for t in again.tasks]) == (found.figures, [t.sample for t in found.tasks])
    with pytest.raises(UserError, match=r"4 have right and wrong responses .*fewer than the 5 of one step"):
        mixed.select(given, engine, "m", section(prompts=5), rewarded, images, Book(tmp_path / "book"), 0)
    with pytest.raises(
        UserError, match=r"rl\.reward .*gave 0\.5 .*neither right nor wrong; set rl\.filter\.rollouts to 0"
    ):
        mixed.select(given, engine, "m", chosen, half, images, Book(tmp_path / "book"), 0)


def test_the_candidates_share_what_text_and_pictures_are_asked_for(tmp_path: Path, tiny_dir: Path) -> None:
    engine = Engine(Qwen3VL.from_pretrained(tiny_dir), Processor.from_pretrained(tiny_dir))
    given = [replace(one, sample=one.sample.model_copy(update={"id": f"mixed-{i}"})) for i, one in enumerate(tasks())]
    images, book = ImageStore(tmp_path / "image-store"), Book()

    def texts(share: float) -> int:
        return mixed.select(given, engine, "m", section(text_share=share, steps=2), rewarded, images, book, 0).figures[
            "text"
        ]

    assert [texts(share) for share in (0.0, 0.25, 1.0)] == [0, 1, 4]


def test_the_stage_writes_what_is_never_right_for_stage_3(tmp_path: Path, tiny_dir: Path) -> None:
    images = ImageStore(tmp_path / "image-store")
    (tmp_path / "pool").mkdir()
    write_samples(tmp_path / "pool" / "pool.parquet", [stored(one, images) for one in tasks()])
    write_json(tmp_path / "pool" / "pool.json", {"wanted": 12})
    recipe = Recipe(name="t", rl=section(learning_rate=1e-3))
    (tmp_path / "sft").mkdir()
    (tmp_path / "sft" / "model").symlink_to(tiny_dir)
    for folder in ("out", "scratch"):
        (tmp_path / folder).mkdir()
    inputs = {"rl_pool": tmp_path / "pool", "sft_preference": tmp_path / "sft"}
    SEEN.clear()
    rl.run(StageRun(recipe, tmp_path / "out", tmp_path / "scratch", inputs, images, 0, "rl", Quiet()))
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["filter"]["kept"] == 4
    failed = {one.id: one for one in read_samples(tmp_path / "out" / "failed.parquet")}
    assert {f"hard-{i}" for i in range(4)} <= failed.keys()
    assert failed["hard-0"].extra["failed"] == {"tried": 8}
    assert failed["hard-0"].messages[-1].text == "\\boxed{7}"
    trained = [name for name, _ in SEEN[96:]]
    assert trained
    assert all(name.startswith("mixed") for name in trained)
    engine = Engine(Qwen3VL.from_pretrained(tiny_dir), Processor.from_pretrained(tiny_dir))
    assert Book(tmp_path / FOLDER).cost(digest(engine)).rollouts == 96, "in the run's book, by the model it begins with"


def test_candidates_are_asked_by_whoever_generates_in_training(tiny_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, processor = Qwen3VL.from_pretrained(tiny_dir), Processor.from_pretrained(tiny_dir)
    same, name = mixed.asked(model, processor, section(rollout={"ahead": True}))
    assert (type(same), name) == (OwnGenerator, digest(Engine(model, processor))), "nothing is ahead of anything here"
    eight, other = mixed.asked(model, processor, section(rollout={"weights": "int8"}))
    assert isinstance(eight, CopyGenerator)
    assert other == f"{name} int8", "8 bits answer otherwise: kept apart in the book"
    monkeypatch.setenv("OPEN4OV_VLLM_PYTHON", "nowhere")
    with pytest.raises(UserError, match="nowhere: no interpreter with vLLM"):
        mixed.asked(model, processor, section(rollout={"backend": "vllm"}))


def test_candidates_are_stopped_and_graded_as_in_training() -> None:
    watched = mixed.sampling_of(section(max_tokens=64), 0)
    assert watched.watch is not None
    assert watched.watch == degenerate.watch(RolloutSection(), 64)
    free = mixed.sampling_of(section(max_tokens=64, rollout={"stop_loops": False}), 0)
    sample = tasks()[0].sample
    assert free.watch is None
    assert free.asking("m", sample).key != watched.asking("m", sample).key
    said = [("stop", "yes"), ("repetition", "yes yes yes"), ("stop", "  "), ("length", "yes")]
    book = Book()
    group = [Rollout(i, text, 1, finish) for i, (finish, text) in enumerate(said)]
    book.add([(free.asking("m", sample), group)], Cost())
    found = mixed.mixed([sample], book, "m", free, lambda response, sample: 1.0, 4)
    assert found.rates == {sample.id: 0.5}, "a loop and a response without a word earn nothing"


def test_options_that_do_nothing_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"

    def fault(rl: str) -> str:
        path.write_text(f"name: a\nrl: {rl}\n")
        with pytest.raises(UserError) as told:
            load(path)
        return str(told.value)

    assert "rl.filter.candidates: has no effect: rl.filter.rollouts is 0" in fault("{filter: {candidates: 3}}")
    assert "rl.filter: has no effect: rl.steps is 0" in fault("{steps: 0, filter: {rollouts: 4}}")
    assert "1 response is always right or always wrong" in fault("{filter: {rollouts: 1}}")
    path.write_text("name: a\nrl: {filter: {rollouts: 4, candidates: 3}}\n")
    assert load(path).rl.filter.candidates == 3
