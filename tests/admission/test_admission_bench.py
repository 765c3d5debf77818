"""A row of `bench/admission.py` is made anew when what it was made with has changed."""

from __future__ import annotations

import argparse

from bench import admission
from open4ov.sample import Sample, assistant, user


def options(**changes: object) -> argparse.Namespace:
    defaults = {"rate": 1e-3, "pack": 256, "precision": "fp32", "tokens": 100_000, "questions": 80, "symbols": 8}
    more = {"general_questions": 80, "gain": 0.2, "margin": 0.25, "own": 16}
    return argparse.Namespace(**{**defaults, **more, **changes})


def test_a_row_is_kept_under_all_that_it_depends_on() -> None:
    batch = [Sample(id="a", source="t", task="t", messages=[user("?"), assistant("red")], answer="red")]
    other = [batch[0].model_copy(update={"messages": [user("?"), assistant("blue")]})]

    def key(samples: list[Sample], seed: int = 0, **changes: object) -> str:
        given = options(**changes)
        return admission.made_from(given, admission.recipe(given, seed), samples)

    assert key(batch) == key(batch)
    keys = [key(batch), key(other), key(batch, 1), key(batch, tokens=200_000), key(batch, precision="bf16"),
            key(batch, symbols=4), key(batch, gain=0.1)]  # fmt: skip
    assert len(set(keys)) == len(keys)
