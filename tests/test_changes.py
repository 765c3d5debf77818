"""What a run tells of a stage that it makes anew, and of an interrupted one that cannot go on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from open4ov import changes, keys, pipeline
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
        Stage("first", (), lambda recipe: {"threads": recipe.threads}, lambda run: (run.out / "x").touch()),
        Stage("sft_knowledge", ("first",), lambda recipe: {"sft": recipe.sft.model_dump(mode="json")}, work),
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
        ({"config": {"files": {"data.labels": "a" * 64}}}, {"config": {"files": {"data.labels": "b" * 64}}},
         "the files of data.labels have changed"),
        ({"config": {"files": {}}}, {"config": {"files": {"model": "b" * 64}}}, "the files of model have changed"),
        ({"config": {"sft": {"names": ["a"]}}}, {"config": {}}, "sft.names was ['a'], is not there"),
        ({"config": {"ratios": {}}}, {"config": {"ratios": {"x": 0.5}}}, "ratios.x was not there, is 0.5"),
        ({"inputs": {"data": {"key": "x"}}}, {"inputs": {"data": {"key": "y"}}}, "its input data is another"),
    ],
)  # fmt: skip
def test_changes_are_said_in_the_words_of_the_recipe(before: Any, after: Any, expected: str) -> None:
    assert changes.told(before, after) == expected


def test_only_the_first_changes_are_told_in_full() -> None:
    text = changes.told({"config": dict.fromkeys("abcdefgh", 1)}, {"config": dict.fromkeys("abcdefgh", 2)})
    assert text.startswith("a was 1, is 2; ")
    assert text.endswith("; and 2 more")


def everything(folder: Path, **sft: Any) -> Recipe:
    """A recipe in which every part of a run is at work."""
    for name in ("labels.yaml", "feedback.yaml", "probe.parquet", "hard.parquet", "exam.tsv"):
        (folder / name).write_text("index\tquestion\n")
    (folder / "pictures").mkdir(exist_ok=True)
    return Recipe.model_validate(
        {
            "name": "all",
            "images": {"vertical": str(folder / "pictures")},
            "data": {
                "labels": str(folder / "labels.yaml"),
                "feedback": str(folder / "feedback.yaml"),
                "providers": {"default": {}, "own": {"kind": "engine", "model": "nano"}},
                "roles": {"preference": "own", "rl_pool": "own"},
                "hygiene": {"decontaminate": [str(folder / "exam.tsv")]},
            },
            "admission": {
                "assess": {"tokens": 10_000, "probe": str(folder / "probe.parquet")},
                "ration": {"trials": 3},
                "balance": {"samples": 100},
            },
            "sft": {
                "held_out": 0.1,
                "ability": {"blend": "deficit"},
                "preference_set": {"hard": str(folder / "hard.parquet")},
                **sft,
            },
            "rl": {
                "pool": {
                    "sources": [{"share": 0.5}, {"kind": "set", "path": str(folder / "probe.parquet"), "share": 0.5}],
                    "judged": 5,
                    "decisions": str(folder / "pictures"),
                },
                "leakage": {"rollouts": 8},
            },
        }
    )


@pytest.mark.parametrize("schedule", ["curriculum", "random_mix", "single_stage"])
@pytest.mark.parametrize("pack", [None, 8192])
def test_what_every_stage_depends_on_is_told_by_its_place_in_the_recipe(
    tmp_path: Path, schedule: str, pack: int | None
) -> None:
    recipe = everything(tmp_path, schedule=schedule, preference={"pack_tokens": pack})
    stages = pipeline.graph(recipe).stages
    assert schedule != "curriculum" or {"assess", "ration", "probe_base", "deficit", "preference_set"} < stages.keys()
    for stage in stages.values():
        config = stage.config(recipe)
        told = config.model_dump(mode="json") if isinstance(config, Recipe) else dict(config)
        files = told.pop(changes.FILES, {})
        Recipe.model_validate({"name": "all", **told})  # which refuses a key that is none
        for option in files:
            place: Any = recipe.model_dump()
            for word in () if option == keys.SHIPPED else option.split("."):
                assert word in place, f"{stage.name}: {option}"
                place = place[word]


@pytest.mark.parametrize(
    ("stage", "options"),
    [
        ("assess", {"tensorboard": True, "wandb": "w", "peak_tflops": 1.0, "checkpoint_every": 7, "held_out": 0.2,
                    "preference_set": {"pictures": 3}, "validation": {"every": 5}, "difficulty_noise": 0.5}),
        ("ration", {"tensorboard": True, "wandb": "w", "peak_tflops": 1.0, "checkpoint_every": 7, "held_out": 0.2,
                    "preference_set": {"pictures": 3}, "validation": {"every": 5}, "difficulty_noise": 0.5}),
        ("sft_knowledge", {"tensorboard": True, "peak_tflops": 1.0, "checkpoint_every": 7}),
        ("preference_set", {"pack_tokens": 512, "validation": {"every": 5}}),
        ("deficit", {"pack_tokens": 512}),
    ],
)  # fmt: skip
def test_options_that_change_nothing_of_a_stage_leave_it(tmp_path: Path, stage: str, options: dict[str, Any]) -> None:
    preference = {"preference": {"pack_tokens": 4096}}
    before = everything(tmp_path, **preference)
    first = pipeline.graph(before).stages[stage].config(before)
    for option, value in options.items():
        after = everything(tmp_path, **preference, **{option: value})
        assert pipeline.graph(after).stages[stage].config(after) == first, option
    changed = before.model_copy(deep=True)
    changed.model = "nano-moe"
    assert pipeline.graph(changed).stages[stage].config(changed) != first


def test_a_change_is_told_by_the_option_that_was_changed(tmp_path: Path) -> None:
    before, after = everything(tmp_path), everything(tmp_path)
    after.admission.assess.gain, after.admission.balance.max_repeat = 0.1, 5
    after.sft.preference.tokens, after.sft.ability.blend_floor, after.sft.grad_clip = 90_000, 0.5, 2.0
    (tmp_path / "labels.yaml").write_text("other")
    expected = {
        "assess": "admission.assess.gain was 0.05, is 0.1; sft.grad_clip was 1.0, is 2.0",
        "sets": "admission.balance.max_repeat was 3, is 5; the files of data.labels have changed",
        "preference_set": "sft.preference.tokens was 600000, is 90000",
        "deficit": "sft.ability.blend_floor was 0.3, is 0.5",
        "ration": "sft.grad_clip was 1.0, is 2.0",
    }
    configs: list[dict[str, Any]] = []
    for text, recipe in (("index\tquestion\n", before), ("other", after)):
        (tmp_path / "labels.yaml").write_text(text)
        configs.append({name: pipeline.graph(recipe).stages[name].config(recipe) for name in expected})
    for name, words in expected.items():
        assert changes.told({"config": configs[0][name]}, {"config": configs[1][name]}) == words
