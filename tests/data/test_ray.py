"""Data construction by Ray's workers: the same bytes as in one process, one budget, and workers that are killed."""

from __future__ import annotations

import json
import os
import pickle
import signal
import sys
import threading
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from open4ov.corpora import in_car
from open4ov.data.construct import build
from open4ov.data.executor_ray import Cluster, _Worker
from open4ov.data.task import Task
from open4ov.errors import UserError
from open4ov.mllm import Asker
from open4ov.mllm.embedding import embed_texts
from open4ov.pipeline import graph
from open4ov.recipe import BudgetSection, DataSection, ProviderSection, Recipe, load
from open4ov.recipe_executor import ExecutorSection
from open4ov.sample import Sample
from open4ov.store import ImageStore, read_samples, write_samples

sys.path.insert(0, str(Path(__file__).parents[1] / "mllm"))
from endpoint import endpoint

NAMES = ("samples.parquet", "rejected.parquet", "topics.parquet", "report.json", "summary.json")
needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="the extra `ray` is not installed (ray[data])")
RAY = ExecutorSection(kind="ray", workers=2, cpus=0.5)


def embed(texts: list[str]) -> NDArray[np.float32]:
    """An embedder that leaves the number of its process behind."""
    if "TEST_PROCESSES" in os.environ:
        (Path(os.environ["TEST_PROCESSES"]) / str(os.getpid())).touch()
    return embed_texts(texts)


def on_ray(task: Task, out: Path, place: Path | None = None) -> dict[str, Any]:
    with Cluster(task, place) as cluster:
        return build(task, out, cluster.asker, None, cluster)


def read(out: Path) -> dict[str, bytes]:
    return {name: (out / name).read_bytes() for name in NAMES}


@needs_ray
@pytest.mark.slow
def test_workers_make_the_same_bytes(tmp_path: Path) -> None:
    store = ImageStore(tmp_path / "image-store")
    images = [item.store(store) for item in in_car.pictures("train", 1)][:20]
    write_samples(tmp_path / "images.parquet", images)
    hygiene = {"near_duplicates": 4, "near_questions": 0.6, "val": 0.2}
    section = DataSection(inject_defects=0.4, chunk=3, executor=RAY, hygiene=hygiene)  # type: ignore[arg-type]
    task = Task(section, tmp_path / "images.parquet", store.root, tmp_path / "work", 5)
    on_ray(task, tmp_path / "ray")
    alone = Task(section, task.source, store.root, tmp_path / "alone", 5)
    build(alone, tmp_path / "local", Asker(section))
    assert read(tmp_path / "ray") == read(tmp_path / "local")
    assert json.loads((tmp_path / "ray" / "report.json").read_text())["counts"]["kept"] > 30


def reply(body: dict[str, Any], number: int) -> str:
    schema = body["response_format"]["json_schema"]["name"]
    prompt = body["messages"][0]["content"][-1]["text"]
    ok = {"ok": True, "reason": "fine", "score": 5}
    pair = {"topic": "Counting ~ Object counting ~ Counting dogs", "task": "counting", "language": "en",
            "aliases": ["two"], "response": "2", "answer": "2"}  # fmt: skip
    asked = [{**pair, "question": f"How many {what}?"} for what in ("dogs", "black cats", "houses by the sea")]
    answers: dict[str, Any] = {
        "Ranking": {"description": "two dogs", "domain": ["Nature", "Others"], "ability": ["Counting", "Others"]},
        "Topics": {"topics": ["Counting dogs"] if "Animals" in prompt else []},
        "Density": {"subjects": 1, "space": 1, "ocr": 1, "knowledge": 1},
        "Pairs": {"pairs": asked},
        "Judgement": {"score": 1, "reason": "r"},
        "Verification": dict.fromkeys(("accuracy", "completeness", "authenticity", "relevance", "plausibility"), ok),
    }
    return json.dumps(answers[schema])


class Server:
    """Counts each question that arrives, and may do something at the arrival of the n-th of a kind."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.kinds: Counter[str] = Counter()
        self.lock = threading.Lock()
        self.when: tuple[str, int] = ("", 0)
        self.then = lambda: None

    def again(self) -> Counter[str]:
        """Questions that came more often than they should: all three judges are asked the same."""
        return (
            Counter({text: count - (3 if '"Judgement"' in text else 1) for text, count in self.asked.items()})
            + Counter()
        )

    def __call__(self, body: dict[str, Any], number: int) -> str:
        kind = body["response_format"]["json_schema"]["name"]
        with self.lock:
            self.asked[json.dumps(body, sort_keys=True)] += 1
            self.kinds[kind] += 1
            now = self.when == (kind, self.kinds[kind])
        if now:
            self.then()
        return reply(body, number)


def made(tmp_path: Path, url: str, **options: Any) -> Task:
    store = ImageStore(tmp_path / "image-store")
    shas = [store.put(Image.new("RGB", (40, 30), (n * 9, 90, 60))) for n in range(12)]
    write_samples(
        tmp_path / "images.parquet",
        [Sample(id=f"i{n:02}", source="folder", task="image", images=[sha]) for n, sha in enumerate(shas)],
    )
    provider = ProviderSection(
        kind="openai", base_url=url, model="m", api_key_env="TEST_KEY", concurrency=4, cache_as="x", max_tokens=500
    )
    section = DataSection(
        providers={"default": provider}, chunk=2, executor=RAY, min_pairs=3, max_pairs=3, topics_per_pair=1,
        embedder="test_ray:embed", density_evidence=0, **options,
    )  # fmt: skip
    return Task(section, tmp_path / "images.parquet", store.root, tmp_path / "work", 0)


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What workers inherit: the key, where this module is, and where they leave their numbers."""
    monkeypatch.setenv("TEST_KEY", "a-secret-of-this-test")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)]))
    folder = tmp_path / "processes"
    folder.mkdir()
    monkeypatch.setenv("TEST_PROCESSES", str(folder))
    return folder


@needs_ray
@pytest.mark.slow
def test_a_killed_worker_loses_nothing_and_pays_only_what_was_under_way_twice(
    tmp_path: Path, environment: Path
) -> None:
    server = Server()
    killed: list[int] = []

    def kill() -> None:
        killed.append(
            next(one for one in map(int, (path.name for path in environment.iterdir())) if one != os.getpid())
        )
        os.kill(killed[0], signal.SIGKILL)

    server.when, server.then = ("Pairs", 5), kill
    with endpoint(server) as url:
        task = made(tmp_path, url.url)
        told = on_ray(task, tmp_path / "ray", tmp_path)
        assert killed
        assert killed[0] != os.getpid()
        assert told["counts"]["kept"] == len(read_samples(tmp_path / "ray" / "samples.parquet")) == 36
        again = server.again()
        assert sum(again.values()) <= 2  # the worker had at most two questions open
        assert all('"Pairs"' in text for text in again)
        once = dict(server.asked)
        alone = Task(task.section, task.source, task.store, tmp_path / "alone", 0)
        build(alone, tmp_path / "local", Asker(task.section, place=tmp_path))
        assert server.asked == once  # every answer had been kept: nothing is sent
    for name in NAMES[:3]:
        assert (tmp_path / "ray" / name).read_bytes() == (tmp_path / "local" / name).read_bytes()
    every = "".join(path.read_text(errors="replace") for path in (tmp_path / "work").rglob("*.json"))
    assert "a-secret-of-this-test" not in every


@needs_ray
@pytest.mark.slow
def test_the_hard_stop_holds_over_workers_and_the_run_goes_on_with_more(tmp_path: Path, environment: Path) -> None:
    server = Server()
    with endpoint(server) as url:
        task = made(tmp_path, url.url, budget=BudgetSection(tokens=60_000))
        with pytest.raises(UserError, match=r"data\.budget\.tokens"):
            on_ray(task, tmp_path / "ray", tmp_path)
        first = sum(server.asked.values())
        assert first > 20
        richer = Task(
            task.section.model_copy(update={"budget": BudgetSection(tokens=10_000_000)}),
            task.source, task.store, task.work, 0,
        )  # fmt: skip
        told = on_ray(richer, tmp_path / "ray", tmp_path)
        assert told["counts"]["kept"] == 36
        assert not server.again()
        assert told["asking"]["spent"]["total"]["requests"] == sum(server.asked.values())


@needs_ray
def test_a_cluster_that_does_not_answer_is_an_error_in_time(tmp_path: Path) -> None:
    executor = ExecutorSection(kind="ray", address="127.0.0.1:9", timeout=60)
    task = Task(DataSection(executor=executor), tmp_path / "i", tmp_path / "s", tmp_path / "w", 0)
    with pytest.raises(
        UserError, match=r"data\.executor\.address: no Ray cluster answered at 127\.0\.0\.1:9 within 60"
    ):
        on_ray(task, tmp_path / "out")


def test_without_the_extra_the_error_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    task = Task(DataSection(executor=RAY), tmp_path / "i", tmp_path / "s", tmp_path / "w", 0)
    with pytest.raises(UserError, match=r"pip install 'open4ov\[ray\]'"), Cluster(task, None):
        pass


def test_a_worker_sees_no_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever Ray hides: a model among the providers would come to lie on the first card, once for every worker."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    (tmp_path / "mark").touch()
    worker = _Worker(Task(DataSection(), tmp_path / "i.parquet", tmp_path, tmp_path, 0), "match", None, "mark")
    assert not worker._fault
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""


def test_no_key_travels_in_a_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_KEY", "a-secret-of-this-test")
    task = made(tmp_path, "http://127.0.0.1:1/v1")
    assert b"a-secret-of-this-test" not in pickle.dumps(task)
    assert pickle.loads(pickle.dumps(task)) == task


def test_the_recipe_says_who_works(tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"

    def said(text: str) -> Recipe:
        file.write_text(f"name: t\ndata:\n  {text}\n", encoding="utf-8")
        return load(file)

    assert said("executor: ray").data.executor == ExecutorSection(kind="ray")
    keys = [
        graph(said(f"executor: {kind}")).stages["data"].config(said(f"executor: {kind}")) for kind in ("ray", "local")
    ]
    assert keys[0] == keys[1]  # who does the work is no part of what a stage is made from
    assert said("executor: {kind: ray, address: 'head:6379', workers: 4}").data.executor.address == "head:6379"
    for text, reason in (
        ("executor: spark", "executor"),
        ("executor: {workers: 4}", r"data\.executor\.workers: has no effect: data\.executor\.kind is local"),
        ("executor: {kind: ray, address: 'ray://head:10001'}", "is no HOST:PORT"),
        ("executor: {kind: ray, workers: 0}", "workers"),
        ("chunk: 0", "chunk"),
        ("executor: {kind: ray, workers: 16}\n  providers: {default: {kind: openai, model: m}}", "16 workers cannot"),
    ):
        with pytest.raises(UserError, match=reason):
            said(text)
