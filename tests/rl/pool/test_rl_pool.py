"""The pool of RL's tasks: how sources are composed, and the stage put together."""

from __future__ import annotations

import json
import random
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pool_sources import asked, opens, source, tools

from open4ov.answers import INSTRUCTION
from open4ov.corpora import generate
from open4ov.errors import RefusedError, UserError
from open4ov.graph import StageRun
from open4ov.progress import Quiet
from open4ov.recipe import Recipe
from open4ov.recipe_rl_pool import PoolSection, SourceSection
from open4ov.review.collection import Collection
from open4ov.review.decisions import Decision, Reviewer
from open4ov.rl.pool import compose
from open4ov.rl.pool.admit import Admitted, Given, Judged, admit
from open4ov.rl.tasks import drawn, read, task
from open4ov.sample import Label, Sample, assistant
from open4ov.stages import rl_pool
from open4ov.store import ImageStore, read_samples, write_samples


@given(
    st.integers(0, 60),
    st.lists(st.tuples(st.floats(0.01, 1), st.integers(0, 30)), min_size=1, max_size=5),
)
def test_shares_are_kept_as_far_as_there_is_something(count: int, sources: list[tuple[float, int]]) -> None:
    weights, there = [w for w, _ in sources], [n for _, n in sources]
    found = compose.shared(count, weights, there)
    assert sum(found) == min(count, sum(there))
    assert all(0 <= mine <= most for mine, most in zip(found, there, strict=True))
    if all(n >= count for n in there):
        total = sum(weights)
        assert all(abs(mine - count * w / total) < 1 for mine, w in zip(found, weights, strict=True))


def test_text_share_holds_over_all_sources_and_what_is_short_is_made_up() -> None:
    def of(name: str, pictured: int, text: int, share: float) -> Admitted:
        samples = [asked(f"{name} {i}?", "7", images=1 if i < pictured else 0) for i in range(pictured + text)]
        return admit(source(samples, name=name, share=share), PoolSection(), tools(), 0, set())

    both = [of("a", 40, 40, 0.75), of("b", 40, 0, 0.25)]
    made = compose.compose(both, 20, 0.2, 0)
    assert (len(made), sum(not s.images for s in made)) == (20, 4)
    by = compose.distribution(made)["source"]
    assert (by["a"]["count"], by["b"]["count"]) == (15, 5), "b has no text, and all the more pictures"
    assert len(compose.compose(both, 200, 0.5, 0)) == 120
    assert sum(not s.images for s in compose.compose(both, 100, 0.9, 0)) == 40, "pictures make up for texts"
    barred = {s.id for s in made}
    assert not barred & {s.id for s in compose.compose(both, 20, 0.2, 0, barred)}


# --- the stage


def stage_run(root: Path, **rl: Any) -> StageRun:
    options = {"steps": 2, "prompts": 4, "minibatches": 1, "text_share": 0.25} | rl
    recipe = Recipe.model_validate(
        {"name": "t", **{k: options.pop(k) for k in ("data",) if k in options}, "rl": options}
    )
    for folder in ("out", "scratch"):
        (root / folder).mkdir(exist_ok=True)
    return StageRun(recipe, root / "out", root / "scratch", {}, ImageStore(root / "image-store"), 0, "rl_pool", Quiet())


def test_the_default_is_what_the_corpora_drew_before(tmp_path: Path) -> None:
    run = stage_run(tmp_path, steps=4, prompts=10, filter={"rollouts": 4, "candidates": 1.5})
    rl_pool.run(run)
    items = drawn(45, 15, 0)
    random.Random("rl tasks 0").shuffle(items)
    made, old = read(tmp_path / "out", run.images), [task(item.sample, item.images) for item in items]
    assert len(made) == 60
    assert all(one.prompt[-1].text.count("\\boxed{}") == 1 for one in made)
    assert all(one.sample.split == "train" for one in made)
    for one, before in zip(made, old, strict=True):
        assert (one.sample.id, one.prompt, one.sample.answer) == (before.sample.id, before.prompt, before.sample.answer)
        assert [i.tobytes() for i in one.images] == [i.tobytes() for i in before.images]
    figures = json.loads((tmp_path / "out" / "pool.json").read_text())
    assert figures["by"]["pictures"] == {"image": {"count": 45, "share": 0.75}, "text": {"count": 15, "share": 0.25}}
    assert figures["by"]["answer"] == {"number": {"count": 60, "share": 1.0}}
    assert read_samples(tmp_path / "out" / "excluded.parquet") == []
    again = tmp_path / "again"
    again.mkdir()
    rl_pool.run(stage_run(again, steps=4, prompts=10, filter={"rollouts": 4, "candidates": 1.5}))
    for name in ("pool.parquet", "pool.json", "queue.parquet"):
        assert (again / "out" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()


def imported(folder: Path, samples: list[Sample], colours: int = 0) -> Path:
    """A set of ours, its pictures of one colour each; samples name them by number."""
    store = ImageStore(folder / "image-store")
    shas = [store.put(Image.new("RGB", (24, 24), (9 * i, 80, 30))) for i in range(colours)]
    folder.mkdir(exist_ok=True)
    write_samples(
        folder / "samples.parquet",
        [s.model_copy(update={"images": [shas[int(sha)] for sha in s.images]}) for s in samples],
    )
    return folder


def exam(folder: Path, count: int = 12) -> Path:
    letters = [
        asked(f"What is the number of thing {i}?\nA. {i + 20}\nB. {i + 50}", "B", f"mc{i}", images=1,
              labels=[Label(axis="domain", l1="Physics")])
        for i in range(count)
    ]  # fmt: skip
    samples = [s.model_copy(update={"images": [f"{i:064}"]}) for i, s in enumerate(letters)]
    samples += [asked(f"What is {i} + {i}?", str(2 * i), f"sum{i}") for i in range(count)]
    return imported(folder, samples, colours=count)


def test_an_imported_set_becomes_tasks_with_its_pictures(tmp_path: Path) -> None:
    folder = exam(tmp_path / "exam")
    sources = [{"kind": "set", "path": str(folder), "share": 0.5, "domain": None}, {"share": 0.5}]
    run = stage_run(tmp_path, steps=4, prompts=4, pool={"sources": sources})
    rl_pool.run(run)
    made = read(tmp_path / "out", run.images)
    figures = json.loads((tmp_path / "out" / "pool.json").read_text())
    assert figures["by"]["source"] == {"exam": {"count": 8, "share": 0.5}, "corpora": {"count": 8, "share": 0.5}}
    assert figures["by"]["domain"]["Physics"]["count"] == 6
    assert figures["by"]["form"] == {"open": {"count": 10, "share": 0.625}, "cloze": {"count": 6, "share": 0.375}}
    assert figures["by"]["pictures"]["text"]["count"] == 4
    one = next(task for task in made if "cloze" in task.sample.extra)
    assert one.prompt[-1].text.count("\\boxed") == 1
    assert "A." not in one.prompt[-1].text
    assert one.images[0].size == (24, 24)
    assert int(one.sample.answer or 0) >= 50


def test_the_instruction_is_appended_once_over_all_sources(tmp_path: Path) -> None:
    every = [
        *(
            item.sample
            for name in ("reasoning", "arithmetic", "counting", "charts")
            for item in generate(name, "train", 8)
        ),
        *(item.sample for item in generate("naming", "train", 8, language="zh")),
        asked("What colour?\nA. red\nB. blue", "B"),
        asked(f"What is 3+4? {INSTRUCTION['en']}", "7"),
    ]
    shown = [s.model_copy(update={"images": [f"{i:064}"] * len(s.images)}) for i, s in enumerate(every)]
    found = admit(source(shown), PoolSection(max_bad=1), tools(), 0, set())
    assert len(found.samples) == len(every), found.out
    for sample in found.samples:
        once = task(sample, []).prompt
        assert "".join(message.text for message in once).count("\\boxed") == 1
        twice = task(sample.model_copy(update={"messages": [*once, assistant("x")]}), []).prompt
        assert twice == once


def test_a_small_pool_is_gone_through_again(tmp_path: Path) -> None:
    notes: list[str] = []
    folder = exam(tmp_path / "exam", 4)
    run = stage_run(tmp_path, steps=3, prompts=6, pool={"sources": [{"kind": "set", "path": str(folder)}]})
    run.note = notes.append  # pyright: ignore[reportAttributeAccessIssue]
    rl_pool.run(run)
    made = read(tmp_path / "out", run.images)
    assert len(made) == len({t.sample.id for t in made}) == 8, "each once"
    assert any("8 tasks for 18 prompts: they are gone through several times" in line for line in notes)
    assert any("50.0% of the tasks have no picture (rl.text_share = 0.25)" in line for line in notes)
    with pytest.raises(UserError, match=r"8 tasks, fewer than the 9 of one step .*'exam' has 8 of 8"):
        rl_pool.run(stage_run(tmp_path, prompts=9, pool={"sources": [{"kind": "set", "path": str(folder)}]}))


def test_a_bad_source_is_refused_with_examples_and_what_was_found_is_kept(tmp_path: Path) -> None:
    broken = [asked(f"What is it of thing {i}?\nA. red\nB. blue", "D", f"bad{i}") for i in range(4)]
    folder = imported(tmp_path / "bad", [*broken, asked("What is 3+4?", "7")])
    run = stage_run(tmp_path, pool={"sources": [{"kind": "set", "path": str(folder), "name": "the exam"}]})
    with pytest.raises(
        RefusedError, match=r"'the exam': 4 of 5 checked samples are broken.*\n  bad0: its answer is none"
    ):
        rl_pool.run(run)
    out = read_samples(tmp_path / "out" / "excluded.parquet")
    assert [s.extra["rejected_by"] for s in out] == ["cloze_no_option"] * 4
    empty = imported(tmp_path / "empty", [asked("Why?", "Because it rained a lot and the road was wet.")])
    with pytest.raises(RefusedError, match=r"'empty': none of its 1 samples is a verifiable task \(1 unverifiable\)"):
        rl_pool.run(stage_run(tmp_path, pool={"sources": [{"kind": "set", "path": str(empty)}]}))


def test_what_is_set_out_is_screened_and_the_decisions_are_read_back(tmp_path: Path) -> None:
    folder = exam(tmp_path / "exam")
    options: dict[str, Any] = {"sources": [{"kind": "set", "path": str(folder)}], "queue": 4, "screened": True}
    run = stage_run(tmp_path, pool=options)
    with pytest.raises(RefusedError, match="4 samples of the queue have no decision yet"):
        rl_pool.run(run)
    looked = Collection(tmp_path / "out")
    assert len(looked.samples) == 4
    assert looked.reviews == tmp_path / "reviews"
    assert all(looked.images.path(sha).is_file() for sample in looked.samples for sha in sample.images)
    person = Reviewer(looked.reviews, "ann")
    first, second, *rest = list(looked.samples)
    person.decide(Decision(sample=first.id, verdict="reject", comment="not to be read"))
    person.decide(Decision(sample=second.id, verdict="fix", reference="77"))
    for sample in rest:
        person.decide(Decision(sample=sample.id, verdict="accept"))
    rl_pool.run(stage_run(tmp_path, steps=6, pool={**options, "max_bad": 0.25, "decisions": str(looked.reviews)}))
    made = {s.id: s for s in read_samples(tmp_path / "out" / "pool.parquet")}
    assert first.id not in made
    assert made[second.id].answer == "77"
    assert made[second.id].steps[-1].by == "ann"
    screened = json.loads((tmp_path / "out" / "pool.json").read_text())["sources"][0]["screened"]
    assert screened == {"queue": 4, "waiting": 0, "decided": 4, "rejected": 1}
    with pytest.raises(RefusedError, match="1 of 4 samples screened by hand were rejected, more than"):
        rl_pool.run(stage_run(tmp_path, pool={**options, "decisions": str(looked.reviews)}))


def test_nobody_is_paid_to_judge_what_our_own_generators_draw() -> None:
    def judge(samples: Any) -> list[Judged]:
        raise AssertionError("was asked")

    own = Given(SourceSection(), [asked(f"Number {i}?", str(100 + i), f"s{i}") for i in range(9)], opens, drawn=True)
    found = admit(own, PoolSection(judged=4), tools(judge=judge), 0, set())
    assert len(found.samples) == 9
    assert set(found.figures["judged"].values()) == {0}


def test_the_catalog_judges_what_its_annotations_know(tmp_path: Path) -> None:
    store = ImageStore(tmp_path / "set" / "image-store")
    samples = [item.store(store) for item in generate("counting", "train", 6)]
    wrong = [s.model_copy(update={"answer": "99", "id": f"w{i}"}) for i, s in enumerate(samples)]
    images = [s.model_copy(update={"id": f"u{i}", "scene": None}) for i, s in enumerate(samples)]
    write_samples(tmp_path / "set" / "samples.parquet", samples)
    data = {"roles": {"rl_pool": "default"}}
    said: dict[str, list[int | None]] = {}
    for name, given_ in (("right", samples), ("wrong", wrong), ("unknown", images)):
        run = stage_run(tmp_path, data=data, pool={"judged": 6})
        with ExitStack() as held:
            judge = rl_pool._judge(run, store, held)  # pyright: ignore[reportPrivateUsage]
            said[name] = [one.score for one in judge(given_)]
    assert said["unknown"] == [None] * 6
    assert [None if score is None else 1 - score for score in said["right"]] == said["wrong"]
    assert said["right"].count(1) >= 4, "questions are drawn; a wording may be one that it has not met"
    assert 0 not in said["right"]


def test_the_judge_is_told_what_a_sample_is(tmp_path: Path) -> None:
    plain = rl_pool.question_to_judge(asked("What is {3}+4?", "7", aliases=["seven"]), ImageStore(tmp_path)).prompt.text
    assert "There is no image." in plain
    assert "Question: What is {3}+4?\nReference answer: 7" in plain
    assert "Also counted as right: seven" in plain
    assert "multiple choice" not in plain
    made = admit(source([asked("What colour?\nA. red\nB. blue", "B", images=1)]), PoolSection(), tools(), 0, set())
    request = rl_pool.question_to_judge(made.samples[0], ImageStore(tmp_path))
    assert "Look at the image first." in request.prompt.text
    assert "Its options were: red; blue" in request.prompt.text
    assert len(request.images) == 1


def test_decontamination_by_question_and_picture(tmp_path: Path) -> None:
    folder = exam(tmp_path / "exam", 3)
    tsv = tmp_path / "bench.tsv"
    tsv.write_text("index\tquestion\tanswer\n1\tWhat is 2 + 2?\t4\n")
    data = {"hygiene": {"decontaminate": [str(tsv)]}}
    run = stage_run(tmp_path, data=data, prompts=2, pool={"sources": [{"kind": "set", "path": str(folder)}]})
    rl_pool.run(run)
    out = read_samples(tmp_path / "out" / "excluded.parquet")
    assert [(s.id, s.extra["rejected_by"]) for s in out] == [("sum2", "decontamination")]


def test_folders_that_hold_no_pool_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no pool\.json"):
        read(tmp_path, ImageStore(tmp_path))
    run = stage_run(tmp_path)
    rl_pool.run(run)
    made = read(tmp_path / "out", run.images)
    sha = next(s for t in made for s in t.sample.images)
    run.images.path(sha).unlink()
    gone = next(t for t in made if sha in t.sample.images)
    with pytest.raises(UserError, match=r"pool\.parquet: .*is missing"):
        _ = gone.images
    with pytest.raises(UserError, match=r"rl\.pool\.sources: 'nowhere': .*no such file"):
        rl_pool.run(stage_run(tmp_path, pool={"sources": [{"kind": "set", "path": str(tmp_path / "nowhere")}]}))


def test_no_steps_no_pool(tmp_path: Path) -> None:
    run = stage_run(tmp_path, steps=0)
    rl_pool.run(run)
    assert read(tmp_path / "out", run.images) == []
