"""The folders of a finished run as a report finds them, with invented answers."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from PIL import Image

from open4ov.evaluate.scores import DERIVED, ROWS, Answer, differences, summarise, write_answers
from open4ov.store import ImageStore

MODELS = ("base", "sft_knowledge", "sft_ability", "sft_preference", "rl", "dpo")
ITEMS = 12
SUITES = [name for name in ROWS if name not in ("reasoning_pass_k", "diversity", "length", *DERIVED)]
"""Those that are asked"""
QUESTIONS = ITEMS * len(SUITES)


def invented(model: int, store: ImageStore, seed: int = 0) -> list[Answer]:
    answers = []
    for suite in SUITES:
        for index in range(ITEMS):
            rng = random.Random(f"{suite} {index} {model}" + f" {seed}" * bool(seed))
            samples = 4 if suite == "reasoning" else 1
            right = [rng.random() < 0.25 + 0.12 * model for _ in range(samples)]
            hue = random.Random(f"{suite} {index}").randrange(360)
            bare = suite in ("missing_image", "arithmetic", "instruction")
            pictures = (
                [] if bare else [store.put(Image.new("HSV", (96, 96), (hue * 255 // 360, 180, 220)).convert("RGB"))]
            )
            answers.append(
                Answer(
                    id=f"{suite}/{index}",
                    suite=suite,
                    task=suite,
                    language="zh" if suite == "in_car_zh" else "en",
                    question=f"Question {index}: what is <b>{suite}</b>?",
                    earlier="",
                    answers=["three"],
                    rule="refusal" if suite == "missing_image" else "exact",
                    responses=["three" if ok else f"four & {rng.randrange(9)}" for ok in right],
                    right=right,
                    tokens=[rng.randrange(4, 40 - 4 * model) for _ in right],
                    pictures=pictures if index < 8 else [],
                )
            )
    return answers


def branch(name: str, *leaves: tuple[str, int]) -> dict[str, Any]:
    about = [{"id": leaf, "name": leaf, "images": count, "topics": 2, "samples": count} for leaf, count in leaves]
    samples = sum(count for _, count in leaves)
    return {"id": name, "name": name, "images": samples, "topics": 2 * len(leaves), "samples": samples, "l2": about}


COVERAGE = {
    "domain": [branch("Cars", ("Lights", 12), ("Signs", 0)), branch("Kitchens", ("Pots", 0))],
    "ability": [branch("Knowing", ("What <it> means", 12))],
    "others": [],
}


POOL = {
    "wanted": 40,
    "tasks": 20,
    "text_share": {"asked": 0.2, "is": 0.25},
    "by": {
        "source": {"an <exam>": {"count": 15, "share": 0.75}, "corpora": {"count": 5, "share": 0.25}},
        "domain": {f"domain {i}": {"count": 2, "share": 0.1} for i in range(10)},
        "pictures": {"image": {"count": 15, "share": 0.75}, "text": {"count": 5, "share": 0.25}},
    },
    "sources": [
        {"name": "an <exam>", "kind": "set", "candidates": 1200, "admitted": 15, "used": 15, "cloze": 9, "broken": 2,
         "judged": {"sound": 7, "broken": 1, "unsure": 2}, "screened": {"queue": 5, "decided": 4, "rejected": 1},
         "excluded": {"cloze_among": 3}},
    ],
    "leakage": {"t<sk": {"asked": 15, "survive": 2, "undecidable": 1, "pass_rate": 0.2, "guess": 0.3}},
}  # fmt: skip


def finished_run(tmp_path: Path, seed: int = 0) -> Any:
    """`seed` of the answers: another one gives a run that was asked the same and answered otherwise."""
    store = ImageStore(tmp_path / "image-store")
    inputs: dict[str, Path] = {}

    def folder(name: str, **files: Any) -> Path:
        inputs[name] = tmp_path / name
        inputs[name].mkdir()
        for file, content in {"stage": {"seconds": 61.5, "peak_bytes": 2**30, "resumed": False}, **files}.items():
            (inputs[name] / f"{file}.json").write_text(json.dumps(content))
        return inputs[name]

    caught = {"samples": 10, "rejected": 9, "by_judges": 7, "by_verification": 2, "share": 0.9}
    share = {"hits": 7, "of": 10, "share": 0.7, "low": 0.3968, "high": 0.8922}
    nothing = {"hits": 0, "of": 0, "share": None, "low": None, "high": None}
    skill = {"precision": share, "recall": nothing}
    report = {
        "panel": {
            "rate": 0.05,
            "judges": {"judge_1:<rules>": {**skill, "abstained": 3, "missing": 1}},
            "vote": skill,
            "all": skill,
        },
        "counts": {"images": 40, "made": 200, "kept": 180, "defects": 10},
        "defects": {"wrong_answer": caught, "wrong_image": {**caught, "samples": 0, "share": None}},
        "false_rejections": {**caught, "samples": 200, "share": 0.045},
        "coverage": COVERAGE,
        "topics_used": {"Knowing ~ What <it> means ~ A topic": 7, "Knowing ~ What <it> means ~ Another": 9},
        "costs": {
            "steps": {"judge": {"answers": 30, "input": 9000, "output": 500, "money": 0.25}},
            "total": {"answers": 30, "input": 9000, "output": 500, "money": 0.25},
        },
    }
    folder("images", skipped=[{"file": "notes.txt", "reason": "is no <image>"}])
    folder("data", report=report)
    about = {"id": "0123456789abcdef", "train": 1800, "val": 20, "left_out": {"an <empty> answer": 3}}
    folder("sets", summary={"knowledge": about, "ability": {**about, "left_out": {}}})
    folder("preference_set", summary={"preference": {**about, "left_out": {}}})
    folder("rl_pool", pool=POOL)
    for place, model in enumerate(MODELS[1:]):
        points = [{"step": step, "loss": 2 / (step + 1) + place, "reward": step / 30} for step in range(30)]
        lost = {"questions": 40, "before": 0.9, "after": 0.6, "drop": 0.3, "shrunk": 0.25, "low": 0.1, "high": 0.4}
        abilities = {
            "reading_<b>": {**lost, "share": 0.75, "tokens": 90_000, "epochs": 4.0, "ran_out": True},
            "colour": {"questions": 0, "share": 0.25, "tokens": 30_000},
        }
        folder(model, curve=points, blend={"blend": "deficit", "abilities": abilities})
    base = invented(0, store, seed)
    for place, model in enumerate(MODELS):
        answers = invented(place, store, seed)
        compared = {"base": differences(answers, base, 0.95)} if place else {}
        about = {"schema": 1, "model": model, "seed": 0, "items": ITEMS, "samples": 4, "confidence": 0.95}
        results = {**about, **summarise(answers, 0.95), "differences": compared}
        write_answers(folder(f"evaluate_{model}", results=results) / "answers.parquet", answers)
    out = tmp_path / "report"
    out.mkdir()
    recipe = SimpleNamespace(name="a <test> run", model_dump=lambda mode: {"name": "a <test> run"})
    return SimpleNamespace(recipe=recipe, inputs=inputs, images=store, out=out, progress=lambda *_: None)


def copied(run: Any, folder: Path) -> Any:
    """A finished run of one's own, to write into."""
    shutil.copytree(run.out.parent, folder, dirs_exist_ok=True)
    inputs = {name: folder / path.name for name, path in run.inputs.items()}
    about = {**vars(run), "inputs": inputs, "images": ImageStore(folder / "image-store"), "out": folder / run.out.name}
    return SimpleNamespace(**about)
