"""A small finished run directory with the tiny model, as stages leave it; and its parts, to take away or damage."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from open4ov.evaluate.scores import Answer, differences, summarise, write_answers
from open4ov.model import Processor, Qwen3VL
from open4ov.recipe import Recipe
from open4ov.run_dir import Place
from open4ov.sample import Label, Sample, assistant, user
from open4ov.store import ImageStore, write_json, write_samples

STAGES = ("sets", "preference_set", "rl_pool", "sft_knowledge", "rl", "dpo", "evaluate_base", "evaluate_dpo")


def publish(root: Path, name: str, write: Callable[[Path], None]) -> None:
    """A finished stage whose files `write` makes."""
    (root / ".work").mkdir(parents=True, exist_ok=True)
    place = Place(root, name)
    place.prepare(name, {})
    write(place.new)
    place.publish({"key": name, "stage": name, "seconds": 1.5})


def sample(number: int, sha: str | None, **more: Any) -> Sample:
    given: dict[str, Any] = {
        "source": "in_car",
        "messages": [user(f"What is it {number}?", images=1 if sha else 0), assistant(f"answer {number}")],
        "labels": [Label(axis="domain", l1="automotive", l2="tell-tales")],
        **more,
    }
    return Sample(id=f"s{number}", task="qa", images=[sha] if sha else [], answer=f"answer {number}", **given)


def answers(model: int) -> list[Answer]:
    """Of every suite that the tests look at: `naming` improves by the stages, `counting` is lost."""
    made: list[Answer] = []
    for suite, right in (("naming", [False, True][model]), ("counting", [True, False][model]), ("arithmetic", True)):
        for number in range(12):
            made.append(
                Answer(f"{suite}/{number}", suite, suite, "en", "?", "", ["x"], "exact", ["x"], [right], [3], [])
            )
    return made


def _model(folder: Path, tiny: Path, seed: int) -> None:
    Qwen3VL(Qwen3VL.from_pretrained(tiny).config, seed=seed).save_pretrained(folder / "model")
    Processor.from_pretrained(tiny).save_pretrained(folder / "model")


def _evaluated(folder: Path, name: str, own: list[Answer], base: list[Answer] | None) -> None:
    settings = {"schema": 1, "model": name, "seed": 0, "items": 12, "samples": 2, "confidence": 0.95}
    between = {"base": differences(own, base, 0.95)} if base is not None else {}
    write_json(folder / "results.json", {**settings, **summarise(own, 0.95), "differences": between})
    write_answers(folder / "answers.parquet", own)


def made(root: Path, tiny: Path, stages: Sequence[str] = STAGES, **recipe: Any) -> Path:
    """A run directory with these stages finished."""
    store = ImageStore(root / "image-store")
    shas = [store.put(Image.new("RGB", (32, 32), (40 * n, 30, 30))) for n in range(4)]
    told = Recipe(name="made", model=str(tiny), **recipe)
    versions = {"open4ov": "0.1.0"}
    machine = {"cpu": "a processor", "cores": 2}
    write_json(root / "run.json", {"recipe": told.model_dump(mode="json"), "versions": versions, "machine": machine,
                                   "commit": "0" * 40})  # fmt: skip
    kept = [sample(number, sha) for number, sha in enumerate(shas)]
    aside = [sample(9, shas[0], split="val")]
    imported = [sample(20, shas[1], source="theirs", extra={"licence": "cc-by-4.0"})]
    pairs = [sample(30, shas[2], rejected=[assistant("no such thing")], source="corpus:general")]

    def sets(folder: Path) -> None:
        for name, train in (("knowledge", kept), ("ability", imported)):
            write_samples(folder / name / "samples.parquet", train)
            write_samples(folder / name / "val.parquet", aside if name == "knowledge" else [])

    def preference(folder: Path) -> None:
        for name in ("samples", "val"):
            write_samples(folder / "preference" / f"{name}.parquet", [])
        write_json(folder / "summary.json", {"preference": {"train": 400}})

    def dpo(folder: Path) -> None:
        _model(folder, tiny, 7)
        write_samples(folder / "pairs.parquet", pairs)
        write_json(folder / "summary.json", {"pairs": 1, "steps": 2})

    def stage_3(folder: Path) -> None:
        _model(folder, tiny, 8)
        write_json(folder / "summary.json", {"samples": 420, "tokens": 80_000})

    work: dict[str, Callable[[Path], None]] = {
        "sets": sets,
        "preference_set": preference,
        "rl_pool": lambda folder: (write_samples(folder / "pool.parquet", [sample(40, None)]), None)[1],
        "sft_knowledge": lambda folder: _model(folder, tiny, 5),
        "sft_preference": stage_3,
        "rl": lambda folder: _model(folder, tiny, 6),
        "dpo": dpo,
        "evaluate_base": lambda folder: _evaluated(folder, "base", answers(0), None),
        "evaluate_dpo": lambda folder: _evaluated(folder, "dpo", answers(1), answers(0)),
    }
    for name in stages:
        publish(root, name, work[name])
    return root


def record(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "release.json").read_text())
