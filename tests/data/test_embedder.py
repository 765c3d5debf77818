"""The embedder that a recipe names is tried before anything is asked or paid."""

from __future__ import annotations

import sys
import types

import numpy as np
import pytest

from open4ov.errors import UserError
from open4ov.mllm.embedders import tried
from open4ov.recipe import DataSection


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("os:system", r"fails on a list of one text \(TypeError"),
        ("made_up_embedders:flat", r"gives an array of shape \(1,\)"),
        ("made_up_embedders:two", r"gives an array of shape \(2, 3\)"),
        ("made_up_embedders:nan", "finite numbers"),
        ("made_up_embedders:none", "fails on a list of one text|gives an array"),
        ("made_up_embedders:missing", "cannot find"),
    ],
)
def test_one_that_does_not_embed_is_refused(name: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("made_up_embedders")
    functions = {"flat": lambda _: [1.0], "two": lambda _: np.ones((2, 3)), "nan": lambda _: [[np.nan]],
                 "none": lambda _: None}  # fmt: skip
    for key, function in functions.items():
        setattr(module, key, function)
    monkeypatch.setitem(sys.modules, "made_up_embedders", module)
    with pytest.raises(UserError, match=message):
        tried(name)


def test_the_shipped_one_passes() -> None:
    assert tried(DataSection().embedder.name or "")(["a", "b"]).shape[0] == 2
