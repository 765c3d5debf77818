"""Evaluations in bf16 cast each weight once, not at every step of decoding."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from casts import Casts
from eval_files import mcq, tsv

from open4ov import side_by_side, training
from open4ov.engine import Engine, quantize
from open4ov.engine.half import products
from open4ov.evaluate import reading, suites
from open4ov.evaluate.answering import Here
from open4ov.evaluate.benchmarks import registry
from open4ov.evaluate.file_suite import FileSuite
from open4ov.evaluate.set_eval import Plan, evaluate
from open4ov.model import Processor, Qwen3VL
from open4ov.recipe import EvaluateSection


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Of engines. What is computed is bf16, in one process."""
    seen: list[int] = []
    step = Engine.step

    def counted(self: Engine) -> Any:
        seen.append(1)
        return step(self)

    monkeypatch.setattr(Engine, "step", counted)
    monkeypatch.setattr(training, "kind", lambda *_: "bf16")
    monkeypatch.setattr(side_by_side, "places", lambda: 1)
    monkeypatch.setattr(reading, "_latest", None)
    return seen


def checked(model: Qwen3VL, compute: Callable[[], Any], steps: list[int]) -> Any:
    """What `compute` gives. The tower passes once a batch of pictures, the head's weight once a step."""
    steps.clear()
    with Casts(model) as casts:
        found = compute()
    assert len(steps) > 3
    assert casts.counts["text.embed.weight"] == 1, "the head's, which is tied"
    assert any(name.startswith("vision.") for name in casts.counts)
    assert max(casts.counts.values()) == 1, casts.counts.most_common(3)
    assert not set(casts.counts) & set(products(model))
    return found


def test_of_a_model_here(tiny_dir: Path, tmp_path: Path, steps: list[int]) -> None:
    """And it says what it says by weights in float32."""
    known, path = registry(), tsv(tmp_path / "x.tsv", mcq(4))
    entry = known.of_type("own", "mcq", False)
    asked = Plan([FileSuite("own", entry, path, known.prompt(entry.prompt), max_tokens=6)])

    def said(load: Callable[[], Qwen3VL], name: str) -> list[str]:
        who = Here(tiny_dir)
        who._load = load
        assert evaluate(asked, who, tmp_path / name)["asked"] == 4
        return sorted((tmp_path / name / "answers.jsonl").read_text().splitlines())

    model = Here(tiny_dir)._load()
    plain = said(lambda: Qwen3VL.from_pretrained(tiny_dir), "plain")
    assert checked(model, lambda: said(lambda: model, "once"), steps) == plain


def test_of_a_stage(tiny_dir: Path, steps: list[int]) -> None:
    section = EvaluateSection(items=2, sampled_items=1, samples=2, max_tokens=6)
    processor, model = Processor.from_pretrained(tiny_dir), quantize.load(tiny_dir, half=torch.bfloat16)
    found = checked(model, lambda: suites.ask(model, processor, section, 0), steps)
    assert suites.ask(Qwen3VL.from_pretrained(tiny_dir), processor, section, 0) == found
