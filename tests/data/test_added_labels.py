"""Labels that a recipe adds to the shipped tree."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from open4ov import keys
from open4ov.data import labels
from open4ov.errors import UserError
from open4ov.recipe import Recipe, load
from open4ov.recipe_labels import LabelsSection

L2 = {"id": "minerals.quartz", "name": "Quartz", "things": ["crystals"], "abilities": ["recognition"],
      "tags": ["category:quartz"]}  # fmt: skip


def added(*domain: dict[str, Any], ability: list[dict[str, Any]] | None = None) -> labels.LabelTree:
    return labels.load(LabelsSection.model_validate({"domain": list(domain), "ability": ability or []}))


def test_a_new_branch_stands_at_the_end_and_the_shipped_tree_stays() -> None:
    tree, shipped = added({"id": "minerals", "name": "Minerals", "l2": [L2]}), labels.load()
    assert tree.names("domain") == [*shipped.names("domain"), "Minerals"]
    assert tree.axis("ability") == shipped.axis("ability")
    assert tree.find("domain", "Minerals", "Quartz") is not None
    assert tree.named != shipped.named
    assert "minerals" not in {l1.id for l1 in labels.load().domain}


def test_labels_of_an_l1_that_there_is_come_beside_its_own() -> None:
    shipped = next(l1 for l1 in labels.load().domain if l1.id == "healthcare")
    tree = added({"id": "healthcare", "l2": [{**L2, "id": "healthcare.symbols", "name": "Medical symbols"}]})
    found = next(l1 for l1 in tree.domain if l1.id == "healthcare")
    assert [l2.id for l2 in found.l2] == [*(l2.id for l2 in shipped.l2), "healthcare.symbols"]


@pytest.mark.parametrize(
    ("branch", "message"),
    [
        ({"id": "minerals", "l2": [L2]}, "domain.minerals: is new and needs a name"),
        ({"id": "healthcare", "name": "Health", "l2": [L2]}, "the tree has it, as 'Healthcare'"),
        ({"id": "minerals", "name": "Minerals", "l2": [{**L2, "abilities": ["recogniton"]}]}, "recogniton"),
        ({"id": "minerals", "name": "Minerals", "l2": [{**L2, "id": "quartz"}]}, "must start with 'minerals.'"),
        ({"id": "minerals", "name": "Healthcare", "l2": [L2]}, "the name 'healthcare' occurs 2 times"),
    ],
)
def test_labels_that_do_not_fit_are_told_before_any_stage(branch: dict[str, Any], message: str) -> None:
    recipe = Recipe.model_validate({"name": "a", "data": {"labels": {"domain": [branch]}}})
    with pytest.raises(UserError, match=f"data.labels: .*{message}"):
        keys.data(recipe)


def test_a_misspelt_key_is_told_with_its_line(tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text("name: a\ndata:\n  labels:\n    domain:\n      - id: minerals\n        nam: Minerals\n")
    with pytest.raises(
        UserError, match=r"line 6: data\.labels\.domain\.0\.nam: unknown key 'nam'; did you mean 'name'"
    ):
        load(recipe)


def test_other_labels_make_data_and_sets_anew() -> None:
    def config(name: str, labels_: object) -> Any:
        return getattr(keys, name)(Recipe.model_validate({"name": "a", "data": {"labels": labels_}}))

    one = {"domain": [{"id": "minerals", "name": "Minerals", "l2": [L2]}]}
    other = {"domain": [{"id": "minerals", "name": "Stones", "l2": [L2]}]}
    for stage in ("data", "sets"):
        assert config(stage, one) != config(stage, other)
        assert config(stage, one) != config(stage, None)
