"""How a label tree grows: rows and cycles, expansion and merging, the review and its import, coverage."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from open4ov.cli import app
from open4ov.data import labels_import, labels_review
from open4ov.data.coverage import coverage, gaps, text
from open4ov.data.labels import LabelError, LabelTree, check_successor, dump, load
from open4ov.data.labels_expand import Expanded, Merged, Proposed, decouple, expand
from open4ov.data.topics import Topic
from open4ov.data.wording import key
from open4ov.errors import UserError
from open4ov.mllm import AnswerError, Asker, Request
from open4ov.mllm.embedding import embed_texts
from open4ov.recipe import DataSection
from open4ov.sample import Label, Sample

ROWS: list[dict[str, Any]] = [
    {"axis": "domain", "id": "car", "name": "Car"},
    {"axis": "domain", "id": "car.sign", "parent": "car", "name": "Road signs", "things": ["signs"],
     "abilities": ["see"]},
    {"axis": "domain", "id": "car.part", "parent": "car", "name": "Parts", "things": ["wheels"], "abilities": ["see"]},
    {"axis": "domain", "id": "sea", "name": "Sea"},
    {"axis": "domain", "id": "sea.boat", "parent": "sea", "name": "Boats", "things": ["boats"], "abilities": ["see"]},
    {"axis": "ability", "id": "see", "name": "Seeing"},
    {"axis": "ability", "id": "see.name", "parent": "see", "name": "Naming"},
]  # fmt: skip


def written(folder: Path, rows: list[dict[str, Any]], version: int = 1, **more: Any) -> Path:
    file = folder / "tree.yaml"
    file.write_text(yaml.safe_dump({"version": version, "labels": rows, **more}), "utf-8")
    return file


@pytest.fixture
def tree(tmp_path: Path) -> LabelTree:
    return load(written(tmp_path, ROWS))


def test_rows_and_branches_give_the_same_tree(tree: LabelTree, tmp_path: Path) -> None:
    assert tree.ids() == [
        "domain:car", "domain:car.sign", "domain:car.part", "domain:sea", "domain:sea.boat", "ability:see",
        "ability:see.name",
    ]  # fmt: skip
    (tmp_path / "nested.yaml").write_text(dump(tree), "utf-8")
    assert load(tmp_path / "nested.yaml") == tree


@pytest.mark.parametrize(
    ("row", "change", "message"),
    [
        (1, {"parent": "bus"}, "row 2: domain 'car.sign': no label has the id 'bus', its parent"),
        (1, {"parent": "see"}, "the ability axis has one, and a parent is of the same axis"),
        (0, {"parent": "car.sign"}, "row 1: domain 'car': is above itself (car -> car.sign -> car)"),
        (0, {"parent": "car"}, "row 1: domain 'car': is above itself (car -> car)"),
        (2, {"parent": "car.sign"}, "row 3: domain 'car.part': is on level 3 (car.part -> car.sign -> car)"),
        (2, {"id": "car.sign"}, "row 3: domain 'car.sign' is already in row 2"),
        (0, {"axis": "colour"}, "row 1: the axis 'colour'"),
    ],
)
def test_each_fault_of_a_row_is_named(tmp_path: Path, row: int, change: dict[str, Any], message: str) -> None:
    rows = [{**one, **(change if number == row else {})} for number, one in enumerate(ROWS)]
    with pytest.raises(LabelError) as error:
        load(written(tmp_path, rows))
    assert message in str(error.value)


def test_a_cycle_by_a_yaml_alias_is_found(tmp_path: Path) -> None:
    file = tmp_path / "t.yaml"
    file.write_text("version: 1\ndomain: &d\n- {id: a, name: A, l2: *d}\nability: []\n", "utf-8")
    with pytest.raises(LabelError, match=r"domain\.0\.l2: is below itself"):
        load(file)


def test_changed_ids_need_a_new_version(tree: LabelTree, tmp_path: Path) -> None:
    frozen = {1: tree.digest()}
    same = load(written(tmp_path, ROWS, frozen=frozen))
    renamed = [{**row, "name": "Autos"} if row["id"] == "car" else row for row in ROWS]
    assert load(written(tmp_path, renamed, frozen=frozen)).ids() == same.ids()  # renaming is free
    changed = [{**row, "id": "car.panel"} if row["id"] == "car.part" else row for row in ROWS]
    with pytest.raises(LabelError, match="ids are frozen: set version: 2"):
        load(written(tmp_path, changed, frozen=frozen))
    with pytest.raises(LabelError, match="frozen has no digest for version 2: add 2: "):
        load(written(tmp_path, changed, version=2, frozen=frozen))
    bare = load(written(tmp_path, changed))
    with pytest.raises(LabelError, match=r"2 ids differ .*domain:car\.panel.* give the changed tree version 2"):
        check_successor(tree, bare, "x")
    check_successor(tree, bare.model_copy(update={"version": 2}), "x")
    with pytest.raises(LabelError, match=r"'domain:car\.part' is still in the tree"):
        load(written(tmp_path, ROWS, retired={"domain:car.part": ""}))
    with pytest.raises(LabelError, match="retired ids are never used again"):
        check_successor(bare.model_copy(update={"retired": {"domain:car.part": ""}}), tree.model_copy(
            update={"version": 2}), "x")  # fmt: skip


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ("Road signs", "the road-sign", True),
        ("Signs of the road", "Road sign", True),
        ("Road signs", "Street signs", False),
        ("Batteries and boxes", "box, battery", True),
        ("Bus", "Buses", False),  # a plural that the rules do not undo keeps two texts apart, never joins them
        ("道路标志", "道路标志。", True),
        ("道路标志", "道路", False),
        ("the", "of", False),
    ],
)
def test_texts_of_one_key_say_the_same(a: str, b: str, same: bool) -> None:
    assert (key(a) == key(b)) == same


class Proposer:
    """Answers the role `labels`; refuses under Sea."""

    concurrency = 1

    def __init__(self) -> None:
        self.asked: list[Request] = []

    def identity(self, role: str) -> str:
        return "p"

    def answer(self, request: Request) -> dict[str, Any]:
        self.asked.append(request)
        assert request.role == "labels"
        if request.prompt.values["l1"] == "Sea":
            raise AnswerError("no idea")
        known = {"description": "d", "things": ["x", "x "], "abilities": ["see", "fly"]}
        names = ["Sign of the road", "Road sign plates", "Engines", "Engine", "Others", "发动机", "Naming"]
        labels = [{**known, "name": name} for name in names]
        return {"labels": [*labels, {**known, "name": "Tyres", "abilities": ["fly"]}]}


def test_expansion_merges_what_is_there_and_lists_what_it_cannot_use(tree: LabelTree) -> None:
    proposer = Proposer()
    found = expand(Asker(DataSection(), {"default": proposer}), tree, embed_texts, like=0.5)
    assert [r.prompt.values["l1"] for r in proposer.asked] == ["Car", "Sea", "Seeing"]
    assert "Road signs" in proposer.asked[0].prompt.text
    assert "see" in proposer.asked[0].prompt.text
    domain = [one for one in found.proposed if one.axis == "domain"]
    assert [(one.id, one.things, one.abilities) for one in domain] == [
        ("car.engines", ("x",), ("see",)),
        ("car.naming", ("x",), ("see",)),  # the ability of this name is of the other axis
    ]
    merged = {(one.axis, one.name): one for one in found.merged}
    assert merged["domain", "Sign of the road"].into == "car.sign"
    assert merged["domain", "Engine"].into == "car.engines"
    assert merged["domain", "Road sign plates"].into == "car.sign"
    assert merged["domain", "Road sign plates"].reason.startswith("cosine 0.")
    assert merged["ability", "Naming"].into == "see.name"
    refused = {(one["label"], one["name"]): one["reason"] for one in found.refused}
    assert refused["domain:sea", ""] == "no idea"
    assert "boundary" in refused["domain:car", "Others"]
    assert "Latin" in refused["domain:car", "发动机"]
    assert "no ability" in refused["domain:car", "Tyres"]
    only = Proposer()
    expand(Asker(DataSection(), {"default": only}), tree, embed_texts, only=["ability:see"])
    assert [r.prompt.values["axis"] for r in only.asked] == ["ability"]


def test_ids_taken_or_retired_are_not_given_again(tree: LabelTree) -> None:
    old = tree.model_copy(update={"retired": {"domain:car.engine": ""}})
    kept, merged = decouple(old, "domain", [Proposed("domain", "car", "car.engine", "Engine")], embed_texts)
    assert [one.id for one in kept] == ["car.engine_2"]
    assert not merged


EXPANDED = Expanded(
    [
        Proposed("domain", "car", "car.engine", "=Engines", "What drives", ("motors", "pumps"), ("see",)),
        Proposed("ability", "see", "see.tell", "Telling apart"),
    ],
    [Merged("domain", "car", "Traffic signs", "car.sign", "cosine 0.90 with 'Road signs'")],
    [{"label": "domain:sea", "name": "", "reason": "<no idea>"}],
)


def reviewed(folder: Path, tree: LabelTree, change: Callable[[dict[str, dict[str, str]]], None]) -> Path:
    """A review's CSV as a person saves it: proposals kept, then `change` of the rows by id."""
    file = labels_review.write(folder, tree, EXPANDED)
    with file.open(encoding="utf-8-sig", newline="") as text:
        rows = {row["id"]: row for row in csv.DictReader(text)}
    for row in rows.values():
        row["action"] = row["action"] or "Keep"
    change(rows)
    with file.open("w", encoding="utf-8", newline="") as text:
        writer = csv.DictWriter(text, labels_review.COLUMNS)
        writer.writeheader()
        writer.writerows(rows.values())
    return file


def test_a_review_that_keeps_everything_adds_the_proposals(tree: LabelTree, tmp_path: Path) -> None:
    new = labels_import.apply(tree, reviewed(tmp_path, tree, lambda rows: None))
    assert set(new.ids()) - set(tree.ids()) == {"domain:car.engine", "ability:see.tell"}
    assert new.version == 2
    assert new.frozen == {1: tree.digest(), 2: new.digest()}
    engine = new.find("domain", "Car", "=Engines")  # what a spreadsheet would take for a formula came back as it was
    assert engine is not None
    assert (engine.things, engine.abilities) == (("motors", "pumps"), ("see",))
    assert not new.retired
    page = (tmp_path / "review.html").read_text("utf-8")
    assert "Traffic signs" in page
    assert "&lt;no idea&gt;" in page
    (tmp_path / "next.yaml").write_text(dump(new), "utf-8")
    assert load(tmp_path / "next.yaml") == new


def test_merge_rename_move_and_drop(tree: LabelTree, tmp_path: Path) -> None:
    def change(rows: dict[str, dict[str, str]]) -> None:
        rows["car.engine"] |= {"action": "merge", "target": "car.part"}
        rows["car.part"] |= {"action": "rename", "target": "Parts of vehicles"}
        rows["car.sign"] |= {"action": "move", "target": "sea"}
        rows["see.tell"] |= {"action": "drop"}

    new = labels_import.apply(tree, reviewed(tmp_path, tree, change))
    assert new.ids() == [
        "domain:car", "domain:car.part", "domain:sea", "domain:sea.sign", "domain:sea.boat", "ability:see",
        "ability:see.name",
    ]  # fmt: skip
    assert new.retired == {"domain:car.sign": "domain:sea.sign"}
    part = new.find("domain", "Car", "Parts of vehicles")
    assert part is not None
    assert part.things == ("wheels", "motors", "pumps")

    def again(rows: dict[str, dict[str, str]]) -> None:
        del rows["see.tell"]
        rows["car.engine"] |= {"action": "drop"}
        rows["sea.sign"] |= {"action": "merge", "target": "sea.boat"}

    third = labels_import.apply(new, reviewed(tmp_path, new, again))
    assert third.version == 3
    assert third.retired == {"domain:car.sign": "domain:sea.boat", "domain:sea.sign": "domain:sea.boat"}
    assert set(third.frozen) == {1, 2, 3}


def test_renaming_alone_keeps_the_version(tree: LabelTree, tmp_path: Path) -> None:
    def change(rows: dict[str, dict[str, str]]) -> None:
        rows["sea.boat"] |= {"action": "rename", "target": "Ships"}
        for name in ("car.engine", "see.tell"):
            rows[name]["action"] = "drop"

    new = labels_import.apply(tree, reviewed(tmp_path, tree, change))
    assert (new.version, new.ids(), new.retired) == (1, tree.ids(), {})


@pytest.mark.parametrize(
    ("name", "cells", "message"),
    [
        ("car.sign", {"action": "destroy"}, "row 2: unknown action 'destroy'"),
        ("car.engine", {"action": ""}, "row 4: 'car.engine' has no action"),
        ("car.sign", {"target": "sea"}, "row 2: keep takes no target, and there is 'sea'"),
        ("car.sign", {"action": "merge"}, "row 2: merge needs a target"),
        ("car.sign", {"action": "merge", "target": "car.sign"}, "row 2: 'car.sign' cannot be merged into itself"),
        ("car.sign", {"action": "merge", "target": "see.name"}, "row 2: no row of the domain axis has the id"),
        ("car.sign", {"action": "move", "target": "car"}, "row 2: 'car.sign' is under 'car' already"),
        ("car.sign", {"action": "move", "target": "sky"}, "row 2: no domain L1 has the id 'sky'"),
        ("car.sign", {"l1": "sea"}, "row 2: 'car.sign' is under 'car', not 'sea'"),
        ("car.sign", {"name": "Panels"}, "row 2: 'car.sign' is called 'Road signs'; to rename it, write rename"),
        ("car.sign", {"action": "rename", "target": "parts"}, "row 3: the name 'parts' would be that of row 2 too"),
        ("car.sign", {"action": "rename", "target": "SEA"}, "row 2: the name 'sea' would be an L1's too"),
        ("car.sign", {"action": "rename", "target": "A ~ B"}, "row 2: 'A ~ B' cannot be a name"),
        ("car.sign", {"axis": "colour"}, "row 2: the axis 'colour'"),
        ("car.sign", {"id": "car.part"}, "row 3: 'car.part' is in row 2 already"),
        ("sea.boat", {"action": "drop"}, "row 5: nothing would be left under the domain L1 'sea'"),
        ("car.engine", {"abilities": "fly"}, "row 4: abilities: no ability L1 has the id 'fly'"),
        ("car.engine", {"abilities": ""}, "row 4: abilities: is empty"),
        ("car.engine", {"id": "sea.engine"}, "row 4: the id 'sea.engine' must start with 'car.'"),
    ],
)
def test_contradictory_edits_are_refused_naming_file_and_row(
    tree: LabelTree, tmp_path: Path, name: str, cells: dict[str, str], message: str
) -> None:
    file = reviewed(tmp_path, tree, lambda rows: rows[name].update(cells))
    with pytest.raises(LabelError) as error:
        labels_import.apply(tree, file)
    assert f"{file}, {message}" in str(error.value)


def test_edits_that_contradict_one_another_across_rows(tree: LabelTree, tmp_path: Path) -> None:
    def change(rows: dict[str, dict[str, str]]) -> None:
        rows["car.sign"] |= {"action": "merge", "target": "car.part"}
        rows["car.part"] |= {"action": "merge", "target": "car.sign"}
        del rows["see.name"]

    file = reviewed(tmp_path, tree, change)
    with pytest.raises(LabelError) as error:
        labels_import.apply(tree, file)
    lines = str(error.value).splitlines()
    assert f"{file}, row 2: 'car.part' is not kept itself (row 3: merge); merge into one that is" in lines
    assert f"{file}, row 3: 'car.sign' is not kept itself (row 2: merge); merge into one that is" in lines
    assert any("ability 'see.name' has no row" in line for line in lines)


def test_files_that_are_no_review(tree: LabelTree, tmp_path: Path) -> None:
    file = tmp_path / "r.csv"
    with pytest.raises(LabelError, match="cannot be read"):
        labels_import.apply(tree, file)
    file.write_text("axis,id\n", "utf-8")
    with pytest.raises(LabelError, match="row 1: the columns action, l1, name, target are missing"):
        labels_import.apply(tree, file)
    file.write_text(f"{','.join(labels_review.COLUMNS)}\ndomain,car\n", "utf-8")
    with pytest.raises(LabelError, match="row 2: has more or fewer cells"):
        labels_import.apply(tree, file)


def test_coverage_counts_images_topics_and_samples(tree: LabelTree) -> None:
    topics = [Topic("t", ("Car", "Road signs"), ("Seeing", "Naming")), Topic("u", ("Sea", "Boats"), ("Seeing", "X"))]

    def sample(image: str, l2: str) -> Sample:
        labels = [Label(axis="domain", l1="Car", l2=l2), Label(axis="ability", l1="Seeing", l2="Naming")]
        return Sample(id=f"{image}{l2}", source="s", task="t", images=[image], labels=labels)

    coarse = [("a", {"domain": ["Car", "Sea"], "ability": ["Seeing"]}), ("b", {"domain": [], "ability": ["Seeing"]})]
    made = [sample("a", "Road signs"), sample("a", "Parts"), sample("c", "Road signs")]
    found = coverage(tree, coarse, topics, made)
    car, sea = found["domain"]
    assert [car[what] for what in ("images", "topics", "samples")] == [1, 1, 3]
    assert [(low["id"], low["images"], low["topics"], low["samples"]) for low in car["l2"]] == [
        ("car.sign", 2, 1, 2), ("car.part", 1, 0, 1),
    ]  # fmt: skip
    assert (sea["images"], sea["topics"], sea["samples"]) == (1, 1, 0)
    assert found["others"] == [{"image": "b", "axes": ["domain"]}]
    assert gaps(found) == {"domain": ["sea.boat"], "ability": []}
    assert "b: domain" in text(found)


def test_the_commands_write_a_review_and_apply_it(tmp_path: Path) -> None:
    def call(*words: object) -> str:
        result = CliRunner().invoke(app, ["labels", *map(str, words)])
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.output

    assert "version 2, ids" in call("check")
    assert "0 proposed" in call("review", "--out", tmp_path)
    assert "version 2 (was 2)" in call("apply", tmp_path / "review.csv", "--out", tmp_path / "new.yaml")
    assert load(tmp_path / "new.yaml") == load()
    assert "version 2" in call("check", tmp_path / "new.yaml", "--against", tmp_path / "new.yaml")
    with pytest.raises(UserError, match="--under has no effect"):
        call("review", "--out", tmp_path, "--under", "domain:x")
    with pytest.raises(UserError, match="no finished stage `data`"):
        call("coverage", tmp_path)
