"""All of data construction, with the catalog on the vertical and with a real HTTP endpoint on unannotated images."""

from __future__ import annotations

import json
import random
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from open4ov import keys
from open4ov.corpora import in_car
from open4ov.data import defects, labels, topics
from open4ov.data.construct import Result, construct, make
from open4ov.data.report import warnings
from open4ov.data.verify import DIMENSIONS
from open4ov.errors import UserError
from open4ov.mllm.ask import Asker
from open4ov.recipe import DataSection, ProviderSection, Recipe
from open4ov.sample import Sample
from open4ov.store import ImageStore, read_samples, write_samples

sys.path.insert(0, str(Path(__file__).parents[1] / "mllm"))
from endpoint import endpoint

LEAST_CAUGHT = 0.95
MOST_FALSE = 0.05


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ImageStore:
    return ImageStore(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def images(store: ImageStore) -> list[Sample]:
    return [item.store(store) for item in in_car.pictures("train", 2)]


@pytest.fixture(scope="module")
def result(images: list[Sample], store: ImageStore) -> Result:
    return make(images, DataSection(inject_defects=0.5), store)


def test_injected_defects_are_caught_and_clean_samples_kept(result: Result) -> None:
    report = result.report
    assert report["counts"]["defects"] >= 300
    for kind in defects.KINDS:
        # one in another language needs the same question about the same symbol in that language, which few have here
        assert report["defects"][kind]["samples"] >= (40 if kind == "wrong_language" else 100)
        assert report["defects"][kind]["share"] >= LEAST_CAUGHT
    assert report["false_rejections"]["samples"] == report["counts"]["made"] > 700
    assert report["false_rejections"]["share"] <= MOST_FALSE


def test_the_report_counts_what_is_there(result: Result) -> None:
    """Recounted from the samples themselves."""
    caught = Counter(s.extra["defect"] for s in result.rejected if "defect" in s.extra and "rejected_by" in s.extra)
    every = Counter(s.extra["defect"] for s in result.rejected if "defect" in s.extra)
    for kind in defects.KINDS:
        figures = result.report["defects"][kind]
        assert (figures["samples"], figures["rejected"]) == (every[kind], caught[kind])
        assert figures["by_judges"] + figures["by_verification"] == figures["rejected"]
    for figures in (*result.report["panel"]["judges"].values(), result.report["panel"]["vote"]):
        assert figures["recall"]["of"] == sum(every.values()) == result.report["panel"]["defects"]
        assert figures["precision"]["low"] <= figures["precision"]["share"] <= figures["precision"]["high"]
    assert result.report["panel"]["all"]["recall"]["hits"] == sum(caught.values())
    automotive = next(row for row in result.report["coverage"]["domain"] if row["id"] == "automotive")
    assert (automotive["images"], automotive["samples"]) == (266, len(result.samples))
    assert sum(low["topics"] for low in automotive["l2"]) == automotive["topics"] == len(result.topics)
    assert result.report["coverage"]["others"] == []
    assert result.report["density"]["second_opinion"]["mean"]["images"] <= 100
    assert result.report["cost_per_kept"] == {"money": None, "tokens": None, "roles": {}}
    assert "costs" not in result.report
    assert not any(sample.steps for sample in (*result.samples, *result.rejected))  # no model read a prompt
    counts = result.report["counts"]
    assert counts["kept"] == len(result.samples)
    assert counts["kept"] + counts["rejected"] + counts["defects"] == len(result.samples) + len(result.rejected)


def test_no_defect_reaches_the_samples_even_when_nobody_objects(
    images: list[Sample], store: ImageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("open4ov.data.judge.kept", lambda votes, quorum: True)
    monkeypatch.setattr("open4ov.data.verify.passed", lambda sample: True)
    blind = make(images[:40], DataSection(inject_defects=0.5), store)
    assert blind.report["counts"]["defects"] > 20
    assert all("defect" not in sample.extra for sample in blind.samples)
    assert {blind.report["defects"][kind]["share"] for kind in defects.KINDS} == {0.0}  # missed, and said so
    assert len(blind.rejected) == blind.report["counts"]["defects"]


def test_all_are_let_in_where_a_recipe_compares_with_that(images: list[Sample], store: ImageStore) -> None:
    """As many samples as were made and spoilt; what was said of them stays with them."""
    screened, everything = (
        make(images[:40], DataSection(inject_defects=0.5, admit_all=admit_all), store) for admit_all in (False, True)
    )
    assert everything.rejected == []
    counts = everything.report["counts"]
    assert len(everything.samples) == counts["made"] + counts["defects"]
    assert {one.id for one in everything.samples} == {one.id for one in (*screened.samples, *screened.rejected)}
    spoilt = [one for one in everything.samples if "defect" in one.extra]
    assert len(spoilt) == counts["defects"] > 20
    assert any(vote.score == 0 for one in spoilt for vote in one.votes)


def test_sets_from_before_the_choice_keep_their_keys() -> None:
    one, other = (Recipe(name="x", data=DataSection(admit_all=admit_all)) for admit_all in (False, True))
    assert "admit_all" not in keys.data(one)["data"]
    assert keys.data(other)["data"]["admit_all"] is True


def test_kept_samples_carry_all_that_was_found_out(result: Result, images: list[Sample]) -> None:
    scenes = {image.images[0]: image.scene for image in images}
    tree = labels.load()
    for sample in result.samples:
        assert sum(vote.score == 1 for vote in sample.votes) >= 2
        assert [vote.judge for vote in sample.votes] == ["judge_1:rules", "judge_2:pixels", "judge_3:embedding"]
        assert sample.checks == dict.fromkeys(DIMENSIONS, True)
        assert sample.scene == scenes[sample.images[0]]  # the original annotation is never lost
        assert set(sample.density) == {"subjects", "space", "ocr", "knowledge", "ids"}
        (topic,) = sample.topics
        ability = next(label for label in sample.labels if label.axis == "ability")
        assert topic.startswith(f"{ability.l1} ~ {ability.l2} ~ ")
        assert ability.l1 in tree.names("ability")
        assert sample.answer is not None
        assert sample.messages[-1].text
        assert [part.index for part in sample.messages[0].content if part.type == "image"] == [0]
    for sha, count in Counter(sample.images[0] for sample in result.samples).items():
        assert count <= next(sample.budget or 0 for sample in result.samples if sample.images[0] == sha)


def test_the_data_covers_symbols_questions_and_languages(result: Result) -> None:
    # the sign that several others look like may lose some; nearly every symbol must be there
    covered = {sample.scene["symbol"] for sample in result.samples if sample.scene}
    assert len(covered) >= 0.97 * len(in_car.load())
    for language in ("en", "zh"):
        tasks = Counter(sample.task for sample in result.samples if sample.language == language)
        assert set(tasks) == set(in_car.TASKS)
        assert min(tasks.values()) >= 0.05 * sum(tasks.values())


def test_defects_are_what_they_say(result: Result) -> None:
    clean = {sample.id: sample for sample in (*result.samples, *result.rejected)}
    for sample in clean.values():
        kind = sample.extra.get("defect")
        if kind is None:
            continue
        right = {
            qa.answer
            for draw in range(60)
            for qa in in_car.questions(sample.scene or {}, random.Random(draw), sample.language)
            if qa.question == sample.messages[0].text
        }
        assert (sample.answer in right) == (kind == "wrong_topic")


def test_defects_are_never_made_from_what_cannot_be_wrong(result: Result) -> None:
    assert defects.inject(result.samples[:1], [], 1.0, 0) == []  # nobody else is asked the same, no other topic
    first, second = (defects.inject(result.samples, [], 0.2, 0) for _ in range(2))
    assert first == second
    # without topics to choose from the other kinds stand in, and their number is kept
    assert {sample.extra["defect"] for sample in first} == {"wrong_answer", "wrong_image", "wrong_language"}
    assert len(first) == round(0.2 * len(result.samples))
    assert first != defects.inject(result.samples, [], 0.2, 1)


class Run:
    """What the stage reads of a StageRun."""

    def __init__(self, path: Path, images: list[Sample], store: ImageStore, **options: Any) -> None:
        self.recipe = Recipe(name="t", data=DataSection(**options))
        self.out, self.images, self.inputs = path / "data", store, {"images": path / "images"}
        self.steps: list[tuple[str, int, int]] = []
        self.notes: list[str] = []
        self.scratch = path / "scratch"
        self.out.mkdir(parents=True)
        write_samples(path / "images" / "samples.parquet", images)
        write_samples(path / "images" / "general.parquet", [])

    def progress(self, description: str, done: int, total: int) -> None:
        self.steps.append((description, done, total))

    def note(self, text: str) -> None:
        self.notes.append(text)


def test_the_stage_writes_the_same_bytes_twice(tmp_path: Path, images: list[Sample], store: ImageStore) -> None:
    written: list[dict[str, bytes]] = []
    for name in ("a", "b"):
        run = Run(tmp_path / name, images[:60], store, inject_defects=0.2)
        construct(run)  # type: ignore[arg-type]
        written.append({file.name: file.read_bytes() for file in run.out.iterdir()})
    assert written[0] == written[1]
    names = {"samples", "rejected", "general", "topics"}
    assert set(written[0]) == {*(f"{name}.parquet" for name in names), "report.json", "summary.json", "unanswered.json"}
    rejected = read_samples(tmp_path / "a" / "data" / "rejected.parquet")
    assert any("defect" in sample.extra for sample in rejected)
    assert all(sample.extra.get("rejected_by") or sample.extra.get("defect") for sample in rejected)
    assert {description for description, _, _ in run.steps} == {
        "matching labels", "scoring density", "writing questions", "judging", "verifying",
    }  # fmt: skip


def test_the_stage_lets_go_of_who_answered(
    tmp_path: Path, images: list[Sample], store: ImageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that answers in this process would lie beside what is trained after."""
    closed: list[Asker] = []
    monkeypatch.setattr(Asker, "close", lambda asker: closed.append(asker))
    construct(Run(tmp_path / "a", images[:8], store))  # type: ignore[arg-type]
    with pytest.raises(UserError):
        construct(Run(tmp_path / "b", [images[0].model_copy(update={"scene": None})], store))  # type: ignore[arg-type]
    make(images[:8], DataSection(), store)
    assert len(closed) == 3
    given = Asker(DataSection())
    make(images[:8], DataSection(), store, asker=given)
    assert len(closed) == 3


def test_unannotated_images_under_the_catalog_are_listed_and_alone_are_an_error(
    tmp_path: Path, images: list[Sample], store: ImageStore
) -> None:
    bare = images[0].model_copy(update={"id": "bare", "scene": None})
    mixed = make([bare, *images[1:9]], DataSection(), store)
    assert [(entry["image"], entry["step"]) for entry in mixed.report["skipped"]] == [("bare", "matching labels")]
    assert mixed.report["counts"]["images_skipped"] == 1
    assert mixed.samples
    run = Run(tmp_path, [bare], store)
    with pytest.raises(UserError, match="unannotated images need an endpoint"):
        construct(run)  # type: ignore[arg-type]
    assert "1 questions got no usable answer (rank: 1 unanswered), 1 images fell out" in run.notes[0]


def test_bad_embedders_are_named(images: list[Sample], store: ImageStore) -> None:
    for path in ("nowhere:f", "open4ov.mllm.embedding:nothing", "open4ov.mllm.embedding", ""):
        with pytest.raises(UserError, match=r"data\.embedder"):
            make(images[:1], DataSection(embedder=path), store)


def reply(body: dict[str, Any], number: int) -> str:
    """A model that knows one photograph: plays every role, one judge of the three always at odds."""
    schema = body["response_format"]["json_schema"]["name"]
    prompt = body["messages"][0]["content"][-1]["text"]
    ok = {"ok": True, "reason": "fine"}
    bad = {"ok": "made up" not in prompt, "reason": "made up"}
    pair = {"topic": "Counting ~ Object counting ~ Counting dogs {left}", "task": "counting", "language": "en",
            "aliases": ["two"], "response": "2", "answer": "2"}  # fmt: skip
    unsure = body["model"] == "b" and "doubtful" in prompt
    answers: dict[str, Any] = {
        "Ranking": {"description": "two dogs", "domain": ["Nature", "Others"], "ability": ["Counting", "Others"]},
        "Topics": {"topics": ["Counting dogs {left}"] if "Animals" in prompt else []},
        "Density": {"subjects": 1, "space": 1, "ocr": 1, "knowledge": 1},
        "Pairs": {"pairs": [
            {**pair, "question": "How many dogs?"},
            {**pair, "question": "How many dogs?"},
            {**pair, "question": "How many made up dogs?"},
            {**pair, "question": "Is it doubtful?"},
            {**pair, "question": "Off topic?", "topic": "Not ~ Offered ~ Here"},
        ]},
        "Judgement": {"score": 0 if body["model"] == "c" else None if unsure else 1, "reason": "r"},
        "Verification": {**dict.fromkeys(DIMENSIONS, ok), "authenticity": bad},
    }  # fmt: skip
    return json.dumps(answers[schema], ensure_ascii=False)


def test_an_endpoint_builds_data_from_images_without_annotation(
    tmp_path: Path, store: ImageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_KEY", "k")
    sha = store.put(Image.new("RGB", (50, 40), (120, 90, 60)))
    image = Sample(id="dogs", source="folder", task="image", images=[sha])
    with endpoint(reply) as server:
        providers = {
            name: ProviderSection(kind="openai", base_url=server.url, model=name, api_key_env="TEST_KEY", concurrency=3)
            for name in ("a", "b", "c")
        }
        section = DataSection(
            providers={"default": providers["a"], "b": providers["b"], "c": providers["c"]},
            roles={"judge_2": "b", "judge_3": "c"},
        )
        run = Run(tmp_path, [image], store, **section.model_dump())
        construct(run)  # type: ignore[arg-type]
    (kept,) = read_samples(run.out / "samples.parquet")
    assert kept.messages[0].text == "How many dogs?"
    assert kept.budget == 8
    assert kept.lineage == ["dogs"]
    assert [(step.stage, step.prompt, step.provider, step.by) for step in kept.steps] == [
        ("rank", "rank@1", "default", "a"), ("density", "density@2", "default", "a"),
        ("topics", "topics@1", "default", "a"), ("synthesize", "synthesize@2", "default", "a"),
        ("judge_1", "judge@2", "default", "a"), ("judge_2", "judge@2", "b", "b"), ("judge_3", "judge@2", "c", "c"),
        ("verify", "verify@2", "default", "a"),
    ]  # fmt: skip
    assert [(vote.judge, vote.score) for vote in kept.votes] == [("judge_1:a", 1), ("judge_2:b", 1), ("judge_3:c", 0)]
    rejected = {s.messages[0].text: s for s in read_samples(run.out / "rejected.parquet")}
    assert rejected["Is it doubtful?"].extra["rejected_by"] == "judges"
    assert [vote.score for vote in rejected["Is it doubtful?"].votes] == [1, None, 0]
    assert rejected["How many made up dogs?"].extra["check_reasons"] == {"authenticity": "made up"}
    assert set(rejected) == {"Is it doubtful?", "How many made up dogs?"}
    report = json.loads((run.out / "report.json").read_text())
    assert report["synthesis"]["dropped"] == {"near-duplicate question": 1, "topic not offered": 1}
    assert report["votes"]["judges"]["judge_2:b"]["abstained"] == 1
    assert report["labels"]["ranking_faults"]["domain: left out"] == len(labels.load().domain) - 1
    assert kept.topics[0] in {topic.path for topic in topics.read(run.out / "topics.parquet")}


def test_a_total_is_shared_out_and_images_without_a_budget_are_listed(images: list[Sample], store: ImageStore) -> None:
    made = make(images[:12], DataSection(min_pairs=0, max_pairs=3, total_pairs=9), store)
    budgets: dict[str, int] = made.report["density"]["budgets"]
    assert sum(int(budget) * count for budget, count in budgets.items()) == 9
    assert [entry["reason"] for entry in made.report["skipped"]] == ["its budget is 0"] * budgets["0"]
    with pytest.raises(UserError, match=r"data\.total_pairs: 100 pairs cannot be had of 12 images"):
        make(images[:12], DataSection(total_pairs=100), store)
    bare = images[0].model_copy(update={"id": "bare", "scene": None})
    made = make([bare, *images[1:4]], DataSection(min_pairs=0, max_pairs=3, total_pairs=12), store)
    assert made.report["density"]["total_pairs"] == {"asked": 12, "shared_out": 9}  # one fell out, which ends nothing
    assert warnings(made.report)[-1] == "of data.total_pairs = 12 the images that did not fall out can have 9"
    with pytest.raises(UserError, match=r"data\.density_scenarios\.Cars"):
        make(images[:1], DataSection(density_scenarios={"Cars": {"ocr": 1}}), store)
