"""Rationing put together, with a real (tiny) model: `open4ov admit ration` from versions to the next version."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from open4ov import cli, corpora, keys, pipeline, versions
from open4ov.admission import stable as stable_versions
from open4ov.corpora import in_car
from open4ov.errors import UserError
from open4ov.formats.convert import located
from open4ov.progress import Quiet
from open4ov.recipe import Recipe, load
from open4ov.sample import Sample, assistant, user
from open4ov.sft import pupil, short
from open4ov.stages import ration as rationing
from open4ov.store import ImageStore, read_samples, write_json, write_samples

COLOURS = {"red": (200, 20, 20), "green": (20, 180, 20), "blue": (20, 20, 200), "yellow": (220, 220, 0)}


def admit(recipe: Recipe, stable: Path, new: list[Path], out: Path) -> None:
    pipeline.run(recipe, out, Quiet(), stages=rationing.admit(recipe, stable, new))


def make(root: Path, name: str, count: int, more: str = "") -> Path:
    """A version of questions about plain pictures, two to a picture."""
    images = ImageStore(root / f"{name}-source" / "image-store")
    made: list[Sample] = []
    for i in range(count):
        word, colour = list(COLOURS.items())[i % 4]
        sha = images.put(Image.new("RGB", (32, 32), tuple(min(255, part + i // 4) for part in colour)))
        for task, asked in (("colour", "What colour is the circle?"), ("shape", "How many squares are there?")):
            said = [user(f"{name} {asked}{more}", images=1), assistant(word)]
            about = {"source": name, "task": task, "images": [sha], "answer": word}
            made.append(Sample(id=f"{name}-{task}-{i}", messages=said, **about))  # pyright: ignore[reportArgumentType]
    versions.write(root / name, made, versions.Version(name=name), images)
    return root / name


def recipe(root: Path, model: Path, *overrides: str) -> Recipe:
    path = root / "r.yaml"
    path.write_text(f"""
name: try
model: {model}
threads: 1
admission: {{ration: {{ratios: [0, 0.4, 1], tokens: 400, rungs: 2, batch: 30, questions: 4}}}}
sft: {{pack_tokens: 256, precision: fp32, knowledge: {{learning_rate: 1e-3, freeze_vision: true}}}}
evaluate: {{max_tokens: 4}}
""")
    return load(path, overrides)


Recorder = Callable[[int | None], list[tuple[int, int]]]


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    """Notes how many conversations and tokens each training was given; one whose turn it is is killed."""
    whole = short.fit

    def record(killed: int | None) -> list[tuple[int, int]]:
        seen: list[tuple[int, int]] = []

        def fit(model: Any, encoder: Any, samples: list[Sample], *rest: Any, **more: Any) -> Any:
            if len(seen) == killed:
                raise KeyboardInterrupt
            seen.append((len(samples), sum(map(encoder.length, samples))))
            return whole(model, encoder, samples, *rest, **more)

        monkeypatch.setattr(short, "fit", fit)
        return seen

    return record


@pytest.mark.slow
def test_from_versions_to_the_next_one(
    tmp_path: Path, tiny_dir: Path, fits: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    stable, new = make(tmp_path, "stable", 24), make(tmp_path, "cars", 24)
    section = recipe(tmp_path, tiny_dir)
    seen = fits(None)
    admit(section, stable, [new], tmp_path / "out")
    out = tmp_path / "out" / "ration"
    found = json.loads((out / "ratio.json").read_text())
    assert found["ratio"] in (0, 0.4, 1)
    assert [one["ratio"] for one in found["candidates"]] == [0, 0.4, 1]
    assert found["tokens"]["planned"] == 3 * 400 + 2 * 400
    assert sum(tokens for _, tokens in seen) <= found["tokens"]["used"] <= found["tokens"]["planned"]
    assert sum(tokens for _, tokens in seen) > 0.7 * found["tokens"]["used"]  # nearly all of it is used
    assert {one["held_out"] for one in found["sets"].values()} == {"a share of the pictures"}
    made = versions.check(out / "stable")
    assert made.samples == 96
    assert made.ratio == found["shares"]
    assert [(one.name, one.id) for one in made.parents] == [
        ("stable", versions.read(stable).id),
        ("cars", versions.read(new).id),
    ]
    path, images = located(out / "stable")
    assert images.root == tmp_path / "out" / "image-store"
    assert all(images.get(sha) for one in read_samples(path) for sha in one.images)
    assert json.loads((out / "diff.json").read_text())["added"] == 48
    for name in ("ration.html", "diff.html"):
        assert "http" not in (out / name).read_text()

    # killed in the second training, then a full disk while the fourth is noted: the end is the same, byte for byte
    first = fits(1)
    with pytest.raises(KeyboardInterrupt):
        admit(section, stable, [new], tmp_path / "again")
    second = fits(None)
    writes = 0

    def full(target: Path, value: object) -> None:
        nonlocal writes
        writes += 1
        if writes == 6:
            raise OSError(28, "No space left on device")
        write_json(target, value)

    with monkeypatch.context() as patched:
        patched.setattr("open4ov.admission.halving.write_json", full)
        with pytest.raises(UserError, match="the disk is full"):
            admit(section, stable, [new], tmp_path / "again")
    third = fits(None)
    admit(section, stable, [new], tmp_path / "again")
    assert first + second + third == seen
    for file in ("ratio.json", "ration.html", "stable/samples.parquet", "stable/version.json", "diff.html"):
        assert (tmp_path / "again" / "ration" / file).read_bytes() == (out / file).read_bytes()
    nothing = fits(0)
    admit(section, stable, [new], tmp_path / "again")  # finished: nothing is trained
    assert nothing == []


def test_the_command_refuses_what_does_not_go_together(
    tmp_path: Path, tiny_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stable, new = make(tmp_path, "stable", 2), make(tmp_path, "cars", 2)
    recipe(tmp_path, tiny_dir)

    def refused(*more: object, new: Path = new) -> str:
        out = tmp_path / "out"
        given = ["admit", "ration", tmp_path / "r.yaml", "--stable", stable, "--new", new, "--out", out, *more]
        monkeypatch.setattr(sys, "argv", ["open4ov", *map(str, given)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == 2
        assert not (out / "ration").exists()
        return capsys.readouterr().err

    assert "nothing to search" in refused("--set", "admission.ration={}")
    assert "'car' is none of the new sets; did you mean 'cars'" in refused(
        "--set", "admission.ration.ratios=[{car: 0.1}, 0.2]"
    )
    assert "--verdict has no effect with --anyway" in refused("--verdict", tmp_path, "--anyway")
    about = stable_versions.assessable_id(read_samples(new / "samples.parquet"))
    write_json(new / "verdict.json", {"verdict": "reject", "batch": {"id": about}})
    assert "the rapid assessment says reject" in refused()
    write_json(new / "verdict.json", {"verdict": "admit", "batch": {"id": "0"}})
    assert "are about other data" in refused()
    write_samples(tmp_path / "none" / "samples.parquet", [])
    assert "holds no sample" in refused(new=tmp_path / "none")
    os.truncate(stable / "samples.parquet", 100)
    assert "is damaged" in refused("--anyway")


@pytest.mark.slow
def test_trials_train_and_ask_as_stage_one_does(
    tmp_path: Path, tiny_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By stage 1's own options, on its device; what is left out and what is not judged is counted."""
    options = "admission.ration={ratios: [0, 1], tokens: 400, rungs: 1, batch: 30, questions: 8}"
    more = " Say it in one word."
    stable, new = make(tmp_path, "stable", 40, more), make(tmp_path, "cars", 40, more)

    def trials(*more: str) -> Recipe:
        return recipe(tmp_path, tiny_dir, options, *more)

    if not torch.cuda.is_available():
        with pytest.raises(UserError, match=r"sft\.device: there is no CUDA device"):
            admit(trials("sft.device=cuda"), stable, [new], tmp_path / "cuda")
    applied: list[tuple[str, int]] = []
    monkeypatch.setattr(pupil.recompute, "apply", lambda model, kind, vision: applied.append((kind, 0)))
    long = ["sft.knowledge.pack_tokens=64", "sft.pack_tokens=512", "sft.knowledge.turns=2"]
    with pytest.raises(UserError, match=r"longer than a pack \(sft\.pack_tokens = 64\)"):
        admit(trials(*long, "sft.too_long=refuse"), stable, [new], tmp_path / "refused")
    silent = "sft.verifier=odd_verifiers:by_word"
    admit(trials(*long, "sft.too_long=split", "sft.recompute=op", silent), stable, [new], tmp_path / "split")
    assert {kind for kind, _ in applied} == {"op"}
    told = json.loads((tmp_path / "split" / "ration" / "ratio.json").read_text())["trials"]
    assert told["split"] > 0
    assert told["unjudged"] > 0


@pytest.mark.slow
def test_a_small_search_with_the_shipped_base(tmp_path: Path) -> None:
    """Nano has never seen the in-car symbols: with 60 % of them it learns some, with none of them nothing."""
    cars = ImageStore(tmp_path / "cars" / "image-store")
    known = [item.store(cars) for item in islice(in_car.items("train", 3, 0, ["en"], ["in_car_severity"]), 400)]
    write_samples(tmp_path / "cars" / "samples.parquet", known)
    general = ImageStore(tmp_path / "general" / "image-store")
    asked = [item.store(general) for task in ("colour", "counting") for item in corpora.generate(task, "train", 100)]
    write_samples(tmp_path / "general" / "samples.parquet", asked)
    (tmp_path / "r.yaml").write_text("""
name: small
threads: 1
admission:
  ration: {ratios: [0, 0.6], tokens: 12000, rungs: 1, batch: 300, questions: 40, objective: weighted, weight: 0.8}
sft: {pack_tokens: 512, knowledge: {learning_rate: 8e-4, turns: 1, freeze_vision: true}}
evaluate: {max_tokens: 16}
""")
    chosen = load(tmp_path / "r.yaml")
    admit(chosen, tmp_path / "general", [tmp_path / "cars"], tmp_path / "out")
    found = json.loads((tmp_path / "out" / "ration" / "ratio.json").read_text())
    none, some = (one["trials"][-1] for one in found["candidates"])
    assert found["ratio"] == 0.6
    assert some["vertical"] > none["vertical"] + 0.15


def test_stage_one_takes_the_ratio(tmp_path: Path, tiny_dir: Path) -> None:
    """The stage of a run reads SFT's sets, and its key changes with what it reads only."""
    section = recipe(tmp_path, tiny_dir)
    other = recipe(tmp_path, tiny_dir, "admission.ration.tokens=700")
    later = recipe(tmp_path, tiny_dir, "sft.preference.tokens=5000")
    assert keys.ration(section) != keys.ration(other)
    assert keys.ration(section) == keys.ration(later)
