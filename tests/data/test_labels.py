"""The label tree: what ships is sound and frozen, and each fault of a user's tree is named."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from open4ov.data import labels
from open4ov.data.labels import LabelError, load
from open4ov.sample import Label, content_id

FROZEN = {1: "2895d8d4423af57f", 2: "775d24ee43793473"}
"""Version → digest of the shipped ids. A change here without a new version breaks data sets that refer to them."""


def tree() -> dict[str, object]:
    return {
        "version": 1,
        "domain": [
            {"id": "car", "name": "Car", "l2": [{"id": "car.sign", "name": "Sign", "things": ["signs"],
                                                 "abilities": ["see"], "tags": ["kind:sign"]}]}
        ],
        "ability": [
            {"id": "see", "name": "Seeing", "l2": [{"id": "see.name", "name": "Naming",
                                                    "patterns": ["Naming {thing}"], "tags": ["task:naming"]}]}
        ],
    }  # fmt: skip


def written(path: Path, content: object) -> Path:
    file = path / "tree.yaml"
    file.write_text(yaml.safe_dump(content), "utf-8")
    return file


def test_the_shipped_tree_covers_both_axes() -> None:
    shipped = load()
    assert len(shipped.domain) >= 8
    assert len(shipped.ability) >= 8
    assert all(len(l1.l2) >= 5 for axis in labels.AXES for l1 in shipped.axis(axis))
    assert all(l2.things for l1 in shipped.domain for l2 in l1.l2)
    # without patterns the catalog has no topics there, so every L1 needs a label with some
    assert all(any(l2.patterns for l2 in l1.l2) for l1 in shipped.ability)
    assert all(l1.types for l1 in shipped.ability)


def test_the_shipped_ids_are_frozen() -> None:
    shipped = load()
    assert FROZEN[shipped.version] == content_id(sorted(shipped.ids()))
    assert shipped.frozen == FROZEN


def test_a_sound_tree_loads_and_pairs_only_what_makes_sense(tmp_path: Path) -> None:
    loaded = load(written(tmp_path, tree()))
    assert [(d2.id, a2.id) for _, d2, _, a2 in loaded.pairs({"Car"}, {"Seeing"})] == [("car.sign", "see.name")]
    assert not list(loaded.pairs({"Car"}, set()))
    assert not list(loaded.pairs(set(), {"Seeing"}))
    found = loaded.tags([Label(axis="domain", l1="Car", l2="Sign"), Label(axis="ability", l1="Seeing", l2="Naming")])
    assert found == {"domain": ["kind:sign"], "ability": ["task:naming"]}


def fault(content: dict, *path: object, value: object) -> dict:  # type: ignore[type-arg]
    at = content
    for part in path[:-1]:
        at = at[part]
    at[path[-1]] = value
    return content


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("version",), 0, "version"),
        (("version",), "x", "version"),
        (("domains",), [], "domains"),
        (("domain",), [], "domain"),
        (("domain", 0, "l2"), [], "domain.0.l2"),
        (("domain", 0, "name"), "Others", "'Others' is the matcher's boundary"),
        (("domain", 0, "name"), "A ~ B", "domain.car"),
        (("domain", 0, "name"), "  ", "domain.car"),
        (("domain", 0, "id"), "Car", "'Car'"),
        (("domain", 0, "l2", 0, "id"), "bus.sign", "must start with 'car.'"),
        (("domain", 0, "l2", 0, "name"), "car", "'car' occurs 2 times"),
        (("domain", 0, "l2", 0, "abilities"), ["hear"], "'hear'"),
        (("domain", 0, "l2", 0, "abilities"), [], "'abilities' is empty"),
        (("domain", 0, "l2", 0, "patterns"), ["{thing}"], "belongs to ability"),
        (("ability", 0, "l2", 0, "things"), ["x"], "belong to domain"),
        (("ability", 0, "l2", 0, "patterns"), ["Naming"], "lacks {thing}"),
        (("ability", 0, "l2", 0, "colour"), "red", "colour"),
    ],
)
def test_each_fault_is_named_with_its_place(
    tmp_path: Path, path: tuple[object, ...], value: object, message: str
) -> None:
    file = written(tmp_path, fault(tree(), *path, value=value))
    with pytest.raises(LabelError) as error:
        load(file)
    assert message in str(error.value)
    assert str(file) in str(error.value)


def test_files_that_are_no_tree(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match="cannot read"):
        load(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("a: [1", "utf-8")
    with pytest.raises(LabelError, match="not YAML") as error:
        load(tmp_path / "bad.yaml")
    assert "\n" not in str(error.value)
    (tmp_path / "list.yaml").write_text("- 1", "utf-8")
    with pytest.raises(LabelError):
        load(tmp_path / "list.yaml")


def test_all_faults_are_listed_at_once(tmp_path: Path) -> None:
    content = fault(fault(tree(), "domain", 0, "name", value="Others"), "ability", 0, "l2", 0, "things", value=["x"])
    with pytest.raises(LabelError, match=r"Others.*; .*things"):
        load(written(tmp_path, content))
