"""What a run tells of a stage that it makes anew, and of an interrupted one that cannot go on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from open4ov import changes, pipeline
from open4ov.graph import Graph, Stage, StageRun
from open4ov.progress import Quiet
from open4ov.recipe import Recipe


class Heard(Quiet):
    """Keeps the notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, stage: str, text: str) -> None:
        self.notes.append(f"{stage}: {text}")


def go(root: Path, fail: bool = False, **sections: Any) -> list[str]:
    def work(run: StageRun) -> None:
        (run.scratch / "step-10").write_text("")
        (run.out / "x").write_text(run.recipe.model_dump_json())
        if fail:
            raise RuntimeError("killed")

    stages = [
        Stage(
            "first", (), lambda recipe: {"threads": recipe.threads}, lambda run: (run.out / "x").write_text("") and None
        ),
        Stage("sft_knowledge", ("first",), lambda recipe: recipe.sft, work, section="sft"),
    ]
    heard = Heard()
    try:
        pipeline.run(Recipe(name="toy", **sections), root, heard, None, Graph(stages))
    except RuntimeError:
        assert fail
    return heard.notes


def test_an_interrupted_stage_says_why_it_begins_anew(tmp_path: Path) -> None:
    slow, fast = ({"knowledge": {"learning_rate": rate}} for rate in (5e-4, 1e-3))
    assert go(tmp_path, fail=True, sft=fast) == []
    assert go(tmp_path, fail=True, sft=fast) == [], "goes on"
    assert go(tmp_path, fail=True, sft=slow) == [
        "sft_knowledge: was interrupted, and begins anew: sft.knowledge.learning_rate was 0.001, is 0.0005"
    ]
    assert go(tmp_path, sft=slow) == []
    both = {"pack_tokens": 512, **fast}
    assert go(tmp_path, fail=True, sft=both) == [
        "sft_knowledge: is made anew: sft.pack_tokens was 4096, is 512; "
        "sft.knowledge.learning_rate was 0.0005, is 0.001"
    ]
    assert go(tmp_path, sft=slow, threads=3) == [
        "first: is made anew: threads was empty, is 3",
        "sft_knowledge: was interrupted, and begins anew: sft.pack_tokens was 512, is 4096; "
        "sft.knowledge.learning_rate was 0.001, is 0.0005; its input first is another",
    ]


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ({"config": {"a": 1}}, {"config": {"a": 1}}, ""),
        ({"seed": 0, "config": {}}, {"seed": 1, "config": {}}, "seed was 0, is 1"),
        ({"config": {"seeds": [1, 2]}}, {"config": {"seeds": (1, 2)}}, ""),
        ({"config": {"model": "a" * 64}}, {"config": {"model": "b" * 64}}, "the files of model have changed"),
        ({"config": {"files": ["a"]}}, {"config": {}}, "sft.files was ['a'], is not there"),
        ({"config": {"ratios": {}}}, {"config": {"ratios": {"x": 0.5}}}, "sft.ratios.x was not there, is 0.5"),
        ({"inputs": {"data": {"key": "x"}}}, {"inputs": {"data": {"key": "y"}}}, "its input data is another"),
    ],
)  # fmt: skip
def test_changes_are_said_in_the_words_of_the_recipe(before: Any, after: Any, expected: str) -> None:
    assert changes.told(before, after, "sft", {"model"}) == expected


def test_only_the_first_changes_are_told_in_full() -> None:
    text = changes.told({"config": dict.fromkeys("abcdefgh", 1)}, {"config": dict.fromkeys("abcdefgh", 2)}, "rl", set())
    assert text.startswith("rl.a was 1, is 2; ")
    assert text.endswith("; and 2 more")
