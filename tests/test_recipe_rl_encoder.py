"""`rl.embedder`, `rl.diversity_threshold` and `rl.diversity` in a recipe: what they take, and what is wrong with the
rest."""

from __future__ import annotations

from pathlib import Path

import pytest

from open4ov import keys
from open4ov.changes import FILES
from open4ov.errors import UserError
from open4ov.recipe import Recipe, load
from open4ov.recipe_rl_encoder import SHIPPED, SHIPPED_THRESHOLD

NGRAMS = "open4ov.rl.distance.encoders:ngram_embedding"


def recipe(tmp_path: Path, rl: str) -> Recipe:
    file = tmp_path / "recipe.yaml"
    file.write_text(f"name: x\nrl:\n  {rl}\n")
    return load(file)


def test_names_folders_and_auto_are_read(tmp_path: Path) -> None:
    usual = recipe(tmp_path, "steps: 4").rl
    assert (usual.embedder.name, usual.diversity_threshold) == (SHIPPED, SHIPPED_THRESHOLD)
    assert (usual.diversity.by, usual.diversity.floor) == ("pairs", 0.1)
    named = recipe(tmp_path, f"{{embedder: '{NGRAMS}', diversity_threshold: 0.6}}").rl
    assert named.model_dump(mode="json")["embedder"] == NGRAMS
    folder = recipe(tmp_path, "{embedder: {directory: deberta, batch: 8}, diversity_threshold: auto}").rl
    assert folder.model_dump(mode="json")["embedder"] == {"directory": "deberta", "batch": 8}
    assert folder.diversity_threshold == "auto"
    assert recipe(tmp_path, "{diversity: {by: clusters, floor: 0}}").rl.diversity.by == "clusters"


@pytest.mark.parametrize(
    ("written", "told"),
    [
        (f"{{embedder: '{NGRAMS}'}}", "needs rl.diversity_threshold: 0.47 is the shipped encoder's"),
        ("{embedder: {directory: deberta}}", "needs rl.diversity_threshold"),
        ("{embedder: deberta, diversity_threshold: auto}", "a model's folder is written as `directory: PATH`"),
        ("{embedder: {batch: 8}, diversity_threshold: auto}", "names none; give one"),
        (f"{{embedder: {{name: '{SHIPPED}', directory: d}}, diversity_threshold: auto}}", "has name and directory"),
        ("{diversity_threshold: often}", "diversity_threshold"),
        ("{diversity_threshold: 3}", "diversity_threshold"),
        ("{diversity: {by: wish}}", "clusters"),
        ("{pass_k_share: 1, diversity: {by: clusters}}", "leaves no step to diversity"),
        ("{pass_k_share: 1, diversity_threshold: auto}", "leaves no step to diversity"),
        (f"{{embedder: {{name: '{SHIPPED}', batch: 8}}}}", "rl.embedder names no directory"),
    ],
)
def test_what_cannot_be_is_said(tmp_path: Path, written: str, told: str) -> None:
    with pytest.raises(UserError) as error:
        recipe(tmp_path, written)
    assert told in " ".join(str(error.value).split())


def test_another_model_in_the_folder_makes_rl_anew(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "deberta-v2"}')
    (folder / "model.safetensors").write_bytes(b"1")
    written = recipe(tmp_path, f"{{embedder: {{directory: '{folder}'}}, diversity_threshold: auto}}")
    before = keys.training("rl")(written)[FILES]
    (folder / "model.safetensors").write_bytes(b"2")
    after = keys.training("rl")(written)[FILES]
    assert before["rl.embedder"] != after["rl.embedder"]
    assert "rl.embedder" not in keys.training("rl")(recipe(tmp_path, "steps: 4"))[FILES]
    missing = recipe(tmp_path, "{embedder: {directory: nowhere}, diversity_threshold: auto}")
    with pytest.raises(UserError, match="nowhere is no folder"):
        keys.training("rl")(missing)
