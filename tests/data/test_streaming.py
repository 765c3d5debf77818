"""Data construction in chunks: any size of chunk, and a kill at any point, give what one undisturbed chunk gives."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from open4ov.corpora import in_car
from open4ov.data import defects, topics
from open4ov.data.construct import build, make
from open4ov.data.defect_index import Index, record
from open4ov.data.task import Task
from open4ov.data.working import Listed, Work, add
from open4ov.mllm import Asker
from open4ov.recipe import DataSection, HygieneSection
from open4ov.sample import Sample, assistant, user
from open4ov.store import ImageStore, iter_samples, join_samples, read_samples, write_samples

HYGIENE: dict[str, Any] = {"near_duplicates": 4, "near_questions": 0.6, "licences": ["unknown"], "val": 0.2,
                           "personal_data": {"email": "mask", "card": "drop"}, "groups": ["vehicle"]}  # fmt: skip
NAMES = ("samples.parquet", "rejected.parquet", "topics.parquet", "report.json", "summary.json")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ImageStore:
    return ImageStore(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def images(store: ImageStore) -> list[Sample]:
    """With near-duplicates, another licence, addresses in annotations, and one that the catalog cannot read."""
    found = [item.store(store) for item in in_car.pictures("train", 1)][:24]
    again = store.get(found[3].images[0])
    again.putpixel((0, 0), (1, 2, 3))
    found.append(found[3].model_copy(update={"id": "again", "images": [store.put(again)]}))
    found.append(found[4].model_copy(update={"id": "bare", "scene": None, "images": [store.put(again.rotate(90))]}))
    found[7] = found[7].model_copy(update={"extra": {"licence": "All rights reserved"}})
    for at, image in enumerate(found):
        if image.scene:
            note = "ask a@b.example" if at % 5 else "card 4111 1111 1111 1111" if at == 15 else ""
            found[at] = image.model_copy(update={"scene": {**image.scene, "vehicle": at // 3, "note": note}})
    return found


def built(task: Task, out: Path) -> dict[str, bytes]:
    build(task, out, Asker(task.section))
    return {name: (out / name).read_bytes() for name in NAMES}


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"hygiene": HYGIENE}], ids=["plain", "hygiene"])
def test_neither_the_size_of_a_chunk_nor_how_many_run_at_once_changes_anything(
    options: dict[str, Any], images: list[Sample], store: ImageStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "images.parquet"
    write_samples(source, images)
    found: list[dict[str, bytes]] = []
    for size, at_once in ((1000, 1), (7, 1), (7, 3)):
        monkeypatch.setattr("open4ov.side_by_side.places", lambda at_once=at_once: at_once)
        section = DataSection(inject_defects=0.4, density_evidence=9, chunk=size, total_pairs=80, **options)
        task = Task(section, source, store.root, tmp_path / f"work-{size}-{at_once}", 5)
        found.append(built(task, tmp_path / f"out-{size}-{at_once}"))
    report = json.loads(found[0]["report.json"])
    assert report["counts"]["defects"] > 20
    assert sum(int(budget) * count for budget, count in report["density"]["budgets"].items()) == 80
    reasons = {entry["step"] for entry in report["skipped"]}
    assert reasons >= ({"near-duplicates", "licences", "personal data"} if options else {"matching labels"})
    for other in found[1:]:
        for name in NAMES:
            assert other[name] == found[0][name], name


def test_an_empty_set_gives_an_empty_report(store: ImageStore) -> None:
    made = make([], DataSection(inject_defects=0.5, hygiene=HygieneSection(val=0.2)), store)
    assert (made.samples, made.rejected, made.topics) == ([], [], [])
    assert made.report["counts"]["images"] == 0
    assert made.report["votes"]["judges"] == {}


WORKER = """
import sys
from pathlib import Path
from open4ov.data.construct import build
from open4ov.data.task import Task
from open4ov.mllm import Asker
from open4ov.recipe import DataSection
root = Path(sys.argv[1])
section = DataSection(inject_defects=0.4, chunk=5)
build(Task(section, root / "images.parquet", Path(sys.argv[2]), root / "work", 5), root / "out", Asker(section))
"""


@pytest.mark.slow
def test_a_kill_at_any_point_repeats_no_chunk_and_changes_nothing(
    images: list[Sample], store: ImageStore, tmp_path: Path
) -> None:
    """Killed whenever a further step of some chunk is done; the files of chunks that were done stay as they are."""
    source = tmp_path / "images.parquet"
    write_samples(source, images)
    section = DataSection(inject_defects=0.4, chunk=5)
    right = built(Task(section, source, store.root, tmp_path / "undisturbed", 5), tmp_path / "right")
    work = tmp_path / "work"
    draw = random.Random(3)
    waits = ["match/000002.json", "topics.json", "write/000003.json", "defects/index.sqlite", "judge/000004.json", ""]
    seen: dict[Path, int] = {}
    for wait in waits:
        process = subprocess.Popen([sys.executable, "-c", WORKER, str(tmp_path), str(store.root)])
        while wait and not (work / wait).exists() and process.poll() is None:
            time.sleep(0.002)
        if wait:
            time.sleep(draw.uniform(0, 0.02))
            os.kill(process.pid, signal.SIGKILL)
        process.wait()
        for path, inode in seen.items():
            assert path.stat().st_ino == inode, f"{path} was made again"
        seen = {path: path.stat().st_ino for step in ("clean", "match", "write", "judge")
                for path in (work / step).glob("??????.json")}  # fmt: skip
    assert process.returncode == 0
    assert {name: (tmp_path / "out" / name).read_bytes() for name in NAMES} == right


def test_slices_and_joined_files_are_those_of_the_whole(tmp_path: Path) -> None:
    """Row groups hold 2,048 samples: slices begin and end before, in and behind them."""
    samples = [Sample(id=str(n), source="s", task="t", messages=[user(f"{n} 号"), assistant("x")]) for n in range(5000)]
    whole = tmp_path / "whole.parquet"
    write_samples(whole, samples)
    for start, stop in ((0, 2048), (2047, 2049), (2048, 4096), (4000, 6000), (5000, 7000), (17, None)):
        assert list(iter_samples(whole, start, stop)) == samples[start:stop]
    edges = [0, 1, 1, 700, 3000, 3001, 5000]
    parts: list[Path] = []
    for number, (start, stop) in enumerate(pairwise(edges)):
        parts.append(tmp_path / f"{number}.parquet")
        write_samples(parts[-1], samples[start:stop])
    assert join_samples(tmp_path / "joined.parquet", parts) == 5000
    assert (tmp_path / "joined.parquet").read_bytes() == whole.read_bytes()
    with pytest.raises(ValueError, match="two samples have the id 0"):
        join_samples(tmp_path / "twice.parquet", [*parts, parts[0]])
    assert not (tmp_path / "twice.parquet").exists()
    assert join_samples(tmp_path / "none.parquet", []) == 0
    assert read_samples(tmp_path / "none.parquet") == []


@given(st.integers(0, 200), st.integers(0, 9))
def test_a_shuffle_is_that_of_the_standard_library(count: int, seed: int) -> None:
    ours, theirs = random.Random(seed), random.Random(seed)
    assert list(defects.shuffled(count, ours)) == theirs.sample(range(count), count)
    assert ours.random() == theirs.random()


def test_defects_chosen_from_disk_are_those_chosen_in_memory(images: list[Sample], store: ImageStore) -> None:
    made = make(images, DataSection(), store)
    right = defects.inject(made.samples, made.topics, 0.7, 11)
    assert {sample.extra["defect"] for sample in right} >= {"wrong_answer", "wrong_image", "wrong_topic"}
    path = store.root / "index.sqlite"
    index = Index(path, [record(defects.trait(0, sample)) for sample in made.samples])
    assert list(index.inject(made.topics, 0.7, 11, (one.model_dump_json() for one in made.samples))) == right
    index.close()


def test_no_more_than_so_many_alike_are_looked_at(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("open4ov.data.defects.MOST_ALIKE", 3)
    monkeypatch.setattr("open4ov.data.defect_index.MOST_ALIKE", 3)
    samples = [
        Sample(id=str(n), source="s", task="t", images=[f"{n}"], answer=f"{n}", messages=[user("?", 1), assistant("x")])
        for n in range(50)
    ]
    held = defects.inject(samples, [], 1.0, 0)
    index = Index(tmp_path / "i.sqlite", [record(defects.trait(0, sample)) for sample in samples])
    assert list(index.inject([], 1.0, 0, (one.model_dump_json() for one in samples))) == held
    assert {sample.answer for sample in held if sample.extra["defect"] == "wrong_answer"} <= {"0", "1", "2"}
    assert topics.read(tmp_path / "none") is not None  # a generator: nothing is read yet


def test_figures_add_up_and_lists_are_walked_from_files(tmp_path: Path) -> None:
    found: dict[str, Any] = {}
    for more in ({"a": 1, "b": {"x": 2}, "c": [1]}, {"b": {"x": 1, "y": 5}, "c": [2]}, {"a": 2.5}):
        add(found, more)
    assert found == {"a": 3.5, "b": {"x": 3, "y": 5}, "c": [1, 2]}
    file = tmp_path / "l.jsonl"
    file.write_text('{"reason": "é"}\n{"reason": "b"}\n', encoding="utf-8")
    listed = Listed([file], 2)
    text = "".join(json.JSONEncoder(ensure_ascii=False, indent=1).iterencode({"l": listed, "e": Listed([], 0)}))
    assert json.loads(text) == {"l": [{"reason": "é"}, {"reason": "b"}], "e": []}
    assert text == json.dumps({"l": list(listed), "e": []}, ensure_ascii=False, indent=1)
    work = Work(tmp_path)
    assert not work.done("match", 3)
    work.publish("match", 3, {"ids": [0.1, 1e-7]})
    assert work.facts("match", 3)["ids"] == [0.1, 1e-7]
    assert np.float64(work.facts("match", 3)["ids"][1]) == 1e-7
