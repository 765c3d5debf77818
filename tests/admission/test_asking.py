"""Asking: greedy answers in the recipe's precision, and verdicts that a verifier cannot fake or stop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from open4ov import asking, training
from open4ov.engine import Engine
from open4ov.errors import UserError
from open4ov.model import Processor, Qwen3VL
from open4ov.sample import Sample, assistant, user
from open4ov.verifier import Verifier


def question(name: str, answer: str = "red") -> Sample:
    return Sample(id=name, source="t", task="t", messages=[user(f"{name}?"), assistant(answer)], answer=answer)


@pytest.mark.parametrize(("choice", "fast"), [("auto", True), ("auto", False), ("bf16", False), ("fp32", True)])
def test_it_is_asked_in_the_precision_that_training_has(
    choice: Any, fast: bool, tiny_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[torch.dtype | None] = []

    class Noted(Engine):
        def __init__(self, *rest: Any, autocast: torch.dtype | None = None) -> None:
            used.append(autocast)
            super().__init__(*rest)

    monkeypatch.setattr(asking, "Engine", Noted)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: fast)
    model, processor = Qwen3VL.from_pretrained(tiny_dir), Processor.from_pretrained(tiny_dir)
    lengths = {"a": 3, "b": 5}
    asked = [question("a"), question("b")]
    said = asking.answers(model, processor, asked, lambda sha: None, choice, lambda s: lengths[s.id])  # pyright: ignore[reportArgumentType]
    assert [len(processor.tokenize(text)) <= lengths[one.id] for one, text in zip(asked, said, strict=True)] == [
        True
    ] * 2
    assert used == [torch.bfloat16 if training.kind(choice) == "bf16" else None]
    assert (used[0] is not None) == (choice == "bf16" or (choice == "auto" and fast))


def test_a_verifier_that_fails_on_an_answer_gives_no_verdict_on_it() -> None:
    asked = [question(name) for name in "abcd"]
    with Verifier("odd_verifiers:by_response", 0.5, "sft.verifier") as verifier:
        found = asking.verdicts(["red", "raise", "hang", "blue"], asked, verifier)
    assert [one.right for one in found] == [True, None, None, False]
    assert "KeyError" in found[1].reason
    assert asking.unjudged(2, 4, found[1].reason, "they are left out").startswith(
        "sft.verifier gave no verdict on 2 of 4"
    )


def test_a_verifier_that_never_says_yes_or_no_is_at_fault() -> None:
    with Verifier("odd_verifiers:no", 5.0, "sft.verifier") as verifier, pytest.raises(UserError) as refused:
        asking.verdicts(["red"], [question("a")], verifier)
    assert "sft.verifier: gave no verdict on any of 1 answers (TypeError: gave 'no'" in str(refused.value)
