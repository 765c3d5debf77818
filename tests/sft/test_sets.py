"""The three sets: what goes in, what is left out and why, what is kept apart; an open set as SFT-Ability."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from open4ov import versions
from open4ov.data import labels, topics
from open4ov.data.images import collect_images
from open4ov.errors import UserError
from open4ov.formats.convert import import_set
from open4ov.graph import StageRun
from open4ov.progress import Quiet
from open4ov.recipe import Recipe
from open4ov.sample import Label, Sample, assistant, user
from open4ov.sft import planning, sets
from open4ov.stages import sets as sets_stage
from open4ov.store import ImageStore, read_samples, write_samples


def sample(name: str, image: str | None = None, **changes: Any) -> Sample:
    messages = [user(f"question {name}", images=1 if image else 0), assistant(f"It is {name}.")]
    about = {"id": name, "source": "t", "task": "colour", "messages": messages, "answer": name} | changes
    return Sample(**about, images=[image] if image else [])


def stage(root: Path, name: str, inputs: tuple[str, ...], **section: Any) -> StageRun:
    for folder in (root / name, root / f"{name}.scratch"):
        folder.mkdir(parents=True, exist_ok=True)
    return StageRun(
        recipe=Recipe.model_validate({"name": "t", **section}),
        out=root / name,
        scratch=root / f"{name}.scratch",
        inputs={name: root / name for name in inputs},
        images=ImageStore(root / "image-store"),
        seed=0,
        stage=name,
        _reporter=Quiet(),
    )


def built(root: Path, vertical: list[Sample], general: list[Sample], **section: Any) -> dict[str, Any]:
    write_samples(root / "data" / "samples.parquet", vertical)
    write_samples(root / "data" / "general.parquet", general)
    sets_stage.run(stage(root, "sets", ("data",), **section))
    return json.loads((root / "sets" / "summary.json").read_text())


def test_what_teaches_nothing_is_left_out_and_counted(tmp_path: Path) -> None:
    known, strange = Label(axis="ability", l1="Recognition"), Label(axis="ability", l1="Juggling")
    boundary = Label(axis="domain", l1="Others")
    general = [
        sample("good", labels=[boundary]),
        sample("mute", messages=[]),
        sample("empty", messages=[user("what?"), assistant(" \n")]),
        sample("open", messages=[user("what?"), assistant("this"), user("and that?")]),
        sample("exam", split="test"),
        sample("strange", labels=[known, strange]),
    ]
    known_names = {node.name for node in labels.load(None).axis("ability")}
    assert "Juggling" not in known_names
    summary = built(tmp_path, [sample("v")], general)
    assert [s.id for s in sets.training(tmp_path / "sets" / "ability")] == ["good"]
    assert summary["ability"]["left_out"] == {
        "without messages": 1, "an empty answer": 2, "split test": 1, "a label that is not in the tree": 1,
    }  # fmt: skip
    assert summary["ability"]["examples"]["an empty answer"] == ["empty", "open"]
    assert summary["knowledge"]["left_out"] == {}


def test_a_set_says_what_it_was_made_of(tmp_path: Path) -> None:
    general = [sample(f"g{i}") for i in range(40)]
    store = ImageStore(tmp_path / "image-store")
    pictures = [store.put(Image.new("RGB", (32, 32), (i, 0, 0))) for i in range(20)]
    vertical = [sample(f"v{i}", image=pictures[i // 2]) for i in range(40)]
    summary = built(tmp_path, vertical, general, sft={"held_out": 0.2})
    run = stage(tmp_path, "preference_set", ("sets",), sft={"preference": {"tokens": 10_000}})
    sets.build_preference(run)
    folder = tmp_path / "preference_set" / "preference"
    preference, ability = versions.read(folder), versions.read(tmp_path / "sets" / "ability")
    assert ability.id == summary["ability"]["id"]
    assert ability.parents[0].name == "data/general.parquet"
    assert ability.parents[0].samples == 40
    used = {parent for s in [*sets.training(folder), *sets.validation(folder)] for parent in s.lineage}
    for parent, letter in zip(preference.parents, "vg", strict=True):
        assert parent.id == versions.read(tmp_path / parent.name).id
        assert parent.samples == sum(name.startswith(letter) for name in used) > 0
    assert all(s.steps[-1].by == "SFT-Preference" and s.lineage for s in sets.training(folder))
    assert {s.split for s in sets.validation(folder)} == {"val"}
    kept_apart = {s.id for name in ("knowledge", "ability") for s in sets.validation(tmp_path / "sets" / name)}
    assert not kept_apart & {parent for s in sets.training(folder) for parent in s.lineage}


def test_no_picture_is_on_both_sides_and_additions_move_nothing() -> None:
    """Pictures that one conversation shows together go together; val of before stays val, with all it shares."""
    apart = [sample(f"{i}", image=f"p{i % 50}") for i in range(200)]
    linked = [
        sample("both").model_copy(update={"images": ["p1", "p2"]}),
        sample("v", image="p3", split="val"),
    ]
    everything = [*apart, *linked]
    held = dict(zip((s.id for s in everything), sets.held_out(everything, 0.3, seed=1), strict=True))
    sides: dict[str, set[bool]] = {}
    for s in everything:
        for picture in s.images:
            sides.setdefault(picture, set()).add(held[s.id])
    assert all(len(side) == 1 for side in sides.values())
    assert sides["p1"] == sides["p2"]
    assert sides["p3"] == {True}
    assert 0.15 < sum(held.values()) / len(held) < 0.45
    more = [sample(f"new{i}", image=f"q{i}") for i in range(30)]
    again = dict(zip((s.id for s in [*more, *everything]), sets.held_out([*more, *everything], 0.3, 1), strict=True))
    assert all(again[name] == side for name, side in held.items())
    assert not any(sets.held_out(apart, 0.0, 1))


def test_a_picture_of_both_sets_is_on_one_side(tmp_path: Path) -> None:
    """What stage 1 replays of the open set is nothing that it is validated on."""
    vertical = [sample(f"v{i}", image=f"{i:064x}", split="val" if i == 3 else "train") for i in range(40)]
    general = [sample(f"g{i}", image=f"{i:064x}") for i in range(40)]
    built(tmp_path, vertical, general, sft={"held_out": 0.2})
    train, val = (
        {sha for name in sets.FILES for s in side(tmp_path / "sets" / name) for sha in s.images}
        for side in (sets.training, sets.validation)
    )
    assert f"{3:064x}" in val
    assert not train & val


def test_balancing_sees_only_what_is_trained_on(tmp_path: Path) -> None:
    write_samples(tmp_path / "data" / "samples.parquet", [sample("a"), sample("b", split="val")])
    write_samples(tmp_path / "data" / "general.parquet", [sample("c"), sample("d")])
    seen: dict[str, list[str]] = {}

    def balance(name: sets.Name, samples: list[Sample]) -> list[Sample]:
        seen[name] = [s.id for s in samples]
        return samples[:1]

    sets.build(stage(tmp_path, "sets", ("data",)), lambda _: True, balance)
    assert seen == {"knowledge": ["a"], "ability": ["c", "d"]}
    assert [s.id for s in sets.training(tmp_path / "sets" / "ability")] == ["c"]
    assert [s.id for s in sets.validation(tmp_path / "sets" / "knowledge")] == ["b"]


def test_a_set_with_labels_is_balanced_and_one_without_is_said_not_to_be(tmp_path: Path) -> None:
    tree = labels.load(None)
    domains, ability = tree.names("domain")[:2], Label(axis="ability", l1=tree.names("ability")[0])
    vertical = [
        sample(f"{name}{i}", labels=[Label(axis="domain", l1=name), ability])
        for name, count in zip(domains, (30, 10), strict=True)
        for i in range(count)
    ]
    (tmp_path / "data").mkdir()
    topics.write(tmp_path / "data" / "topics.parquet", [], tree)
    balance = {"samples": "as_many", "max_clusters": 0, "ability": "as_is", "domain": dict.fromkeys(domains, 0.5)}
    notes: list[str] = []
    run = stage(tmp_path, "sets", ("data",), admission={"balance": balance})
    run._reporter.note = lambda stage, text: notes.append(text)  # pyright: ignore[reportAttributeAccessIssue]
    write_samples(tmp_path / "data" / "samples.parquet", vertical)
    write_samples(tmp_path / "data" / "general.parquet", [sample("g")])
    sets_stage.run(run)
    drawn = Counter(s.labels[0].l1 for s in sets.training(tmp_path / "sets" / "knowledge"))
    assert drawn == {domains[0]: 20, domains[1]: 20}
    assert notes == ["SFT-Ability: is not balanced: no sample has a label on the axis domain or ability"]
    assert (tmp_path / "sets" / "knowledge_balance" / "balance.html").exists()


def test_an_empty_set_says_why(tmp_path: Path) -> None:
    summary = built(tmp_path, [sample("v")], [], images={"general_count": 0})
    assert summary["ability"]["empty"] == "images.general_count is 0"
    with pytest.raises(UserError, match=r"^sft\.ability: SFT-Ability is empty: images\.general_count is 0$"):
        sets.check(tmp_path / "sets", "ability", [], "sft.ability")
    summary = built(tmp_path / "b", [sample("v", split="test"), sample("w", messages=[])], [sample("g")])
    assert summary["knowledge"]["empty"] == "of the 2 samples in data/samples.parquet 1 split test, 1 without messages"


def test_a_misspelt_ability_of_a_blend_is_found_before_any_training(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"sft\.ability\.blend\.color: no sample of SFT-Ability is of it; did you mean"):
        built(tmp_path, [sample("v")], [sample("g")], sft={"ability": {"blend": {"color": 1.0}}})
    built(tmp_path / "before", [sample("v")], [sample("g")])  # and where the sets are there from before
    run = stage(tmp_path / "before", "sft_knowledge", ("sets",), sft={"ability": {"blend": {"color": 1.0}}})
    with pytest.raises(UserError, match=r"sft\.ability\.blend\.color: no sample of SFT-Ability is of it"):
        planning.check(run, "knowledge", planning.material_of(run, "knowledge"))


def test_an_open_llava_set_becomes_the_ability_set(tmp_path: Path) -> None:
    """What an 8B run does: images.general names what `open4ov data import` made."""
    source = tmp_path / "open"
    source.mkdir()
    rows = []
    for i in range(6):
        Image.new("RGB", (20, 10), (40 * i, 0, 0)).save(source / f"{i}.png")
        turns = [{"from": "human", "value": f"<image>\nHow red? {i}"}, {"from": "gpt", "value": f"{40 * i} of 255"}]
        rows.append({"id": f"r{i}", "image": f"{i}.png", "conversations": turns})
    (source / "train.json").write_text(json.dumps(rows))
    import_set(source, tmp_path / "set", licence="CC0")
    photos = tmp_path / "photos"
    photos.mkdir()
    Image.new("RGB", (32, 32), (9, 9, 200)).save(photos / "v.png")
    qa = [{"question": "What colour?", "answer": "blue", "language": "en", "task": "colour"}]
    (photos / "v.json").write_text(json.dumps({"qa": qa}))
    images = {"vertical": str(photos), "general": str(tmp_path / "set")}
    root = tmp_path / "run"
    collect_images(stage(root, "images", (), images=images))
    (root / "data").mkdir()
    general = read_samples(root / "images" / "general.parquet")
    write_samples(root / "data" / "general.parquet", general)
    write_samples(root / "data" / "samples.parquet", [sample("v", messages=[user("What colour?"), assistant("blue")])])
    sets_stage.run(stage(root, "sets", ("data",), images=images, sft={"held_out": 0.3}))
    folder = root / "sets" / "ability"
    found = [*sets.training(folder), *sets.validation(folder)]
    assert len(found) == 6
    assert sets.validation(folder)
    assert {s.messages[1].text for s in found} == {f"{40 * i} of 255" for i in range(6)}
    assert all(s.images and ImageStore(root / "image-store").path(s.images[0]).exists() for s in found)
    assert versions.read(folder).sources == {found[0].source: len(sets.training(folder))}
    assert [step.stage for step in found[0].steps] == ["import", "set"]


def test_a_changed_version_is_refused(tmp_path: Path) -> None:
    built(tmp_path, [sample("v")], [sample("g")])
    write_samples(tmp_path / "sets" / "ability" / "samples.parquet", [sample("other")])
    with pytest.raises(UserError, match=re.escape(str(tmp_path / "sets" / "ability"))):
        sets.training(tmp_path / "sets" / "ability")
