"""Judges who are one judge: who is told so, and when."""

from __future__ import annotations

from typing import Any

import pytest

from open4ov.data import judge
from open4ov.recipe import DataSection, ProviderSection

ALL = ["judge_1", "judge_2", "judge_3"]


def section(roles: dict[str, str] | None = None, **providers: dict[str, Any]) -> DataSection:
    made = {name: ProviderSection(**{"kind": "openai", "model": "m", **one}) for name, one in providers.items()}
    return DataSection(providers=made, roles=roles or {})


@pytest.mark.parametrize(
    ("given", "groups"),
    [
        (section(default={}), [ALL]),
        (section(default={"temperature": 0.7}), []),  # each draws for itself
        (section(default={"temperature": None}), []),
        (section(default={"temperature": 0.7, "seed": 3}), [ALL]),
        (section({"judge_2": "b"}, default={}, b={"model": "other"}), [["judge_1", "judge_3"]]),
        (section({"judge_2": "b", "judge_3": "c"}, default={}, b={"model": "x"}, c={"base_url": "http://h/v1"}), []),
        (section({"judge_2": "b"}, default={}, b={"timeout": 5.0, "concurrency": 2}), [ALL]),
        (section({"judge_2": "b"}, default={"seed": 1}, b={"seed": 2}), [ALL]),  # nothing is drawn at temperature 0
        (
            section(
                {"judge_2": "b", "judge_3": "c"},
                default={"temperature": 1.0, "seed": 1},
                b={"temperature": 1.0, "seed": 2},
                c={"temperature": 1.0, "seed": 3},
            ),
            [],
        ),
        (section({"default": "e"}, e={"kind": "engine"}), [ALL]),
        (DataSection(), []),  # the catalog's judges look at different evidence
    ],
)
def test_who_is_alike(given: DataSection, groups: list[list[str]]) -> None:
    assert judge.alike(given) == groups
    assert (judge.warning(given) is None) == (not groups)
    for group in groups:
        assert ", ".join(group) in str(judge.warning(given))
