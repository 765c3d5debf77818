"""Stage 1 is trained on the ratio that rationing has found, and on no other."""

from __future__ import annotations

from pathlib import Path

import pytest

from open4ov.errors import UserError
from open4ov.graph import StageRun
from open4ov.model import Processor
from open4ov.progress import Quiet
from open4ov.recipe import Recipe
from open4ov.sample import Sample, assistant, user
from open4ov.sft import planning
from open4ov.sft.encoding import Encoder
from open4ov.store import ImageStore, write_json


def samples(name: str) -> list[Sample]:
    said = [user("What colour is the circle?"), assistant("red")]
    return [Sample(id=f"{name}-{i}", source="t", task=name, messages=said, answer="red") for i in range(60)]


def a_run(root: Path, ratio: float) -> StageRun:
    write_json(root / "ration" / "ratio.json", {"ratio": ratio})
    inputs = {"ration": root / "ration"}
    recipe = Recipe.model_validate({"name": "t", "sft": {"pack_tokens": 256, "knowledge": {"replay": 0.9}}})
    return StageRun(recipe, root, root, inputs, ImageStore(root / "image-store"), 0, "sft_knowledge", Quiet())


@pytest.mark.parametrize("ratio", [0.2, 0.5, 1.0])
def test_stage_one_has_the_share_that_was_found(tmp_path: Path, tiny_dir: Path, ratio: float) -> None:
    run = a_run(tmp_path, ratio)
    encoder = Encoder(Processor.from_pretrained(tiny_dir), run.images)
    material = planning.Material(samples("own"), samples("general"))
    plan = planning.order(run, "knowledge", material, encoder, 4000)
    tokens = {name: sum(encoder.length(s) for s in plan.samples if name in s.task) for name in ("own", "general")}
    assert tokens["own"] / sum(tokens.values()) == pytest.approx(ratio, abs=0.03)
    assert planning.replay_of(run, "ability") == run.recipe.sft.ability.replay


def test_a_ratio_of_nothing_stops_the_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"best ratio is 0, none of the vertical's data.*admission\.ration\.lowest"):
        planning.replay_of(a_run(tmp_path, 0.0), "knowledge")
