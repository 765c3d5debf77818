"""Rationing around the search: small batches, held-out questions, candidates, and the next stable version."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from open4ov import versions
from open4ov.admission import ration, stable
from open4ov.admission.batches import Batch, Source, askable, batches
from open4ov.admission.halving import Scores
from open4ov.admission.ration import STABLE
from open4ov.errors import UserError
from open4ov.recipe_ration import RationSection
from open4ov.report import ration_page
from open4ov.sample import Label, Sample, assistant, user
from open4ov.store import ImageStore, write_json, write_samples
from open4ov.versions import Version


def sample(name: str, task: str = "naming", picture: str = "", l1: str = "", **about: object) -> Sample:
    images = [picture] if picture else []
    labels = [Label(axis="domain", l1=l1)] if l1 else []
    said = [user(f"What is {name}?", images=len(images)), assistant("red")]
    return Sample(id=name, source="made", task=task, messages=said, images=images, answer="red", labels=labels, **about)  # pyright: ignore[reportArgumentType]


def folder(root: Path, samples: Sequence[Sample], about: Version | None = None) -> stable.Given:
    versions.write(root, samples, about or Version(name=root.name))
    return stable.given(root / "samples.parquet", ImageStore(root.parent / "image-store"))


def batch(samples: Sequence[Sample], most: int, questions: int, seed: int = 0, held: Sequence[Sample] = ()) -> Batch:
    return batches({"a": Source(samples, held)}, most, questions, seed)["a"]


def test_a_batch_is_balanced_and_its_questions_are_held_out() -> None:
    """900 of one domain, 100 of another, 20 pictures each: half of a batch is of each, and no picture is on both
    sides."""
    many = [sample(f"a{i}", picture=f"pa{i % 20}", l1="Automotive") for i in range(900)]
    few = [sample(f"b{i}", picture=f"pb{i % 20}", l1="Health") for i in range(100)]
    unasked = [sample("talk").model_copy(update={"answer": None, "messages": [user("?"), assistant("a")] * 2})]
    made = batch([*many, *few, *unasked], 60, 40, seed=1)
    assert made.apart
    assert made.samples == 1001
    # three strata (talk has no label): evenly over those that have enough
    assert Counter(one.labels[0].l1 if one.labels else "" for one in made.balanced)["Automotive"] in (29, 30)
    assert len(made.balanced) == 60
    assert all(askable(one) for one in made.questions)
    trained, asked = ({one.images[0] for one in some if one.images} for some in (made.balanced, made.questions))
    assert trained
    assert asked
    assert not trained & asked
    assert made == batch([*unasked, *few, *many], 60, 40, seed=1)  # whatever the order
    assert made != batch([*many, *few, *unasked], 60, 40, seed=2)


def test_questions_of_split_val_come_first() -> None:
    some = [sample(f"t{i}") for i in range(50)] + [sample(f"v{i}", split="val") for i in range(5)]
    made = batch([*some, sample("x", split="test")], 100, 40, seed=0, held=[sample("apart", split="val")])
    assert not made.apart
    assert {one.id for one in made.questions} == {"v0", "v1", "v2", "v3", "v4", "apart"}
    assert {one.id for one in made.balanced} == {f"t{i}" for i in range(50)}


def pictures(samples: Sequence[Sample]) -> set[str]:
    return {name for one in samples for name in one.images}


def test_what_one_set_asks_no_set_is_trained_on() -> None:
    """The same pictures in both sets: in one with a split val, in the other without any."""
    old = [sample(f"o{i}", picture=f"p{i % 30}", split="val" if i % 30 < 10 else "train") for i in range(300)]
    new = [sample(f"n{i}", picture=f"p{i % 40}") for i in range(400)]
    made = batches({STABLE: Source(old), "new": Source(new)}, 1000, 40, seed=0)
    asked = pictures(made[STABLE].questions) | pictures(made["new"].questions)
    assert len(pictures(made[STABLE].questions)) == 10
    assert pictures(made["new"].questions)
    for one in made.values():
        assert one.balanced
        assert not pictures(one.balanced) & asked


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(0, 60), min_size=1, max_size=3, unique=True), min_size=20, max_size=80))
def test_samples_of_several_pictures_hang_together(shown: list[list[int]]) -> None:
    some = [sample(f"t{i}").model_copy(update={"images": [f"p{p}" for p in ps]}) for i, ps in enumerate(shown)]
    made = batch(some, 100, 10, seed=3)
    assert made.apart
    assert not pictures(made.balanced) & pictures(made.questions)
    assert made == batch(some[::-1], 100, 10, seed=3)


def test_candidates() -> None:
    section = RationSection(ratios=[0.5, 0.0, {"a": 0.1, "b": 0.3}])
    assert ration.candidates(section, {"a": 300, "b": 100}) == [
        {STABLE: 1.0, "a": 0.0, "b": 0.0},
        {STABLE: pytest.approx(0.6), "a": 0.1, "b": 0.3},
        {STABLE: 0.5, "a": 0.375, "b": 0.125},  # shared out by size
    ]
    assert RationSection(trials=5, lowest=0.1, highest=0.5).candidates() == [0.1, 0.2, 0.3, 0.4, 0.5]
    with pytest.raises(UserError, match="'road' is none of the new sets; did you mean 'roads'"):
        ration.candidates(RationSection(ratios=[{"road": 0.1}, {"roads": 0.2}]), {"roads": 3})
    assert ration.named({STABLE: 0.6, "a": 0.1, "b": 0.3}) == "0.4 (a 0.1, b 0.3)"


def searched(folder: Path, section: RationSection) -> tuple[dict[str, object], list[tuple[float, int, int]]]:
    """A search whose best ratio is 0.3: right answers fall with the distance from it."""
    pieces: list[tuple[float, int, int]] = []

    def train(
        batches: Mapping[str, Sequence[Sample]], shares: Mapping[str, float], start: str | None, done: int, tokens: int
    ) -> str:
        assert set(batches) == set(shares) == {STABLE, "new"}
        pieces.append((ration.ratio_of(shares), done, tokens))
        return f"{ration.ratio_of(shares)}"

    def score(handle: str | None, questions: Mapping[str, Sequence[Sample]]) -> Scores:
        right = 0.2 if handle is None else 0.9 - 1.5 * abs(float(handle) - 0.3)
        return {
            row: [float(i < (right if row == "vertical" else 0.5) * len(asked)) for i in range(len(asked))]
            for row, asked in questions.items()
        }

    batches = {
        STABLE: batch([sample(f"s{i}") for i in range(400)], 50, 40, 0),
        "new": batch([sample(f"n{i}", l1="Automotive") for i in range(400)], 50, 40, 0),
    }
    tried, found = ration.search(section, batches, train, score, folder, 0)
    return ration.record(section, batches, tried, found), pieces


@pytest.mark.slow
def test_a_search_and_its_page(tmp_path: Path) -> None:
    section = RationSection(ratios=[0.0, 0.1, 0.3, 0.5, 0.9], tokens=1000, rungs=3)
    record, pieces = searched(tmp_path / "journal", section)
    assert record["ratio"] == 0.3
    assert record["shares"] == {STABLE: 0.7, "new": 0.3}
    assert record["held"] is True
    tokens = record["tokens"]
    assert isinstance(tokens, dict)
    assert tokens["used"] == sum(each for *_, each in pieces) <= tokens["planned"] == 12_000 < tokens["grid"] == 20_000
    again, nothing = searched(tmp_path / "journal", section)
    assert again == record
    assert nothing == []
    html = ration_page.page(json.loads(json.dumps(record)), ImageStore(tmp_path))
    assert html == ration_page.page(record, ImageStore(tmp_path))
    assert "<svg" in html
    assert "chosen" in html
    assert "http" not in html
    second = {**record["candidates"][0], "name": record["name"]}  # whose names round to the same: "0.333"
    alike = {**record, "candidates": [second, *record["candidates"][1:]]}
    assert ration_page.page(alike, ImageStore(tmp_path)).count('class="chosen"') == html.count('class="chosen"')
    evil = {**record, "ended": "<script>alert(1)</script>"}
    assert "<script>alert" not in ration_page.page(evil, ImageStore(tmp_path))
    # 40 questions a row: 90 % right against 20 %, and the general as the base has it
    failures = record["failures"]
    assert isinstance(failures, dict)
    assert [len(failures[row]) for row in ("vertical", "general")] == [4, 12]
    assert not any(one["lost"] for one in failures["general"])


def test_the_next_stable_version_has_everything_once(tmp_path: Path) -> None:
    old = folder(tmp_path / "v1", [sample("a"), sample("b"), sample("c", split="val")], Version(name=STABLE))
    first = [sample("b"), sample("c", task="colour", split="val"), sample("d")]
    new = folder(tmp_path / "n1", first), folder(tmp_path / "n2", [sample("d"), sample("e")])
    write_samples(tmp_path / "n2" / "val.parquet", [sample("f", split="val")])  # kept apart beside it
    shares = {STABLE: 0.75, "n1": 0.2, "n2": 0.05}
    made, told, changed = stable.write(tmp_path / "v2", old, new, shares, Version(name=STABLE, note="x"), None)
    found = versions.samples(tmp_path / "v2")
    assert [one.id for one in found] == ["a", "b", "c", "d", "e", "f"]
    assert found[2].task == "colour"  # made anew: as the new data has it
    assert found[1] == sample("b")
    assert (told.overlap, told.replaced, told.added) == (3, 1, {"n1": 1, "n2": 2})
    assert made.ratio == shares
    assert [one.name for one in made.parents] == [STABLE, "n1", "n2"]
    assert made.parents[0].id == versions.read(tmp_path / "v1").id
    assert {key: changed[key] for key in ("added", "removed", "changed", "kept")} == {
        "added": 3,
        "removed": 0,
        "changed": 1,
        "kept": 2,
    }


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 12), unique=True), st.lists(st.integers(0, 12), unique=True), st.integers(0, 9))
def test_nothing_is_lost_and_nothing_is_twice(old: list[int], new: list[int], spoil: int) -> None:
    class Held(stable.Given):
        def __init__(self, samples: list[Sample]) -> None:
            object.__setattr__(self, "_all", samples)

        def all(self):
            return iter(self._all)  # pyright: ignore[reportAttributeAccessIssue, reportUnknownVariableType]

    mine = [sample(str(i)) for i in old]
    theirs = [sample(str(i), task="colour" if i == spoil else "naming") for i in new]
    told = stable.Integrated()
    object.__setattr__(other := Held(theirs), "name", "new")
    found = list(stable.integrate(Held(mine), [other], told))
    assert [one.id for one in found] == [*map(str, old), *(str(i) for i in new if i not in old)]
    assert told.overlap == len(set(old) & set(new))
    assert told.replaced == (spoil in old and spoil in new)


def test_bad_sets_are_named(tmp_path: Path) -> None:
    write_samples(tmp_path / "empty" / "samples.parquet", [])
    with pytest.raises(UserError, match=r"empty/samples.parquet: holds no sample"):
        stable.given(tmp_path / "empty" / "samples.parquet", ImageStore(tmp_path))
    one = folder(tmp_path / "v1", [sample("a")], Version(name=STABLE, tree="3 aaaa"))
    other = folder(tmp_path / "n1", [sample("b")], Version(name="n1", tree="4 bbbb"))
    with pytest.raises(UserError, match=r"v1 has labels of the tree 3 aaaa, .*n1 of 4 bbbb"):
        stable.check_trees([one, other])
    stable.check_trees([one, folder(tmp_path / "n2", [sample("b")])])  # not known: passes
    some = [sample(str(i)) for i in range(50)]
    batches = {STABLE: batch(some, 5, 5, 0), "n1": batch([], 5, 5, 0)}
    with pytest.raises(UserError, match="'n1' has no sample of split train"):
        ration._check(batches)  # pyright: ignore[reportPrivateUsage]
    unasked = [one.model_copy(update={"answer": None}) for one in some]
    batches = {STABLE: batch(unasked, 5, 5, 0), "n1": batch(some, 5, 5, 0)}
    with pytest.raises(UserError, match="the stable version has no held-out question"):
        ration._check(batches)  # pyright: ignore[reportPrivateUsage]


def judged(root: Path, new: stable.Given, said: str, samples: Sequence[Sample] | None = None) -> Path:
    """A verdict in the folder `root`, about a set or other samples."""
    about = stable.assessable_id(new.samples() if samples is None else samples)
    write_json(root / "verdict.json", {"verdict": said, "batch": {"id": about}})
    return root


def test_new_data_that_was_not_admitted_is_refused(tmp_path: Path) -> None:
    new = folder(tmp_path / "n1", [sample("a")])
    stable.check_admitted([new])  # never assessed
    for said in ("reject", "undecided"):
        judged(tmp_path / "n1", new, said)
        with pytest.raises(UserError, match=f"the rapid assessment says {said}"):
            stable.check_admitted([new])
    elsewhere = judged(tmp_path / "elsewhere", new, "admit")
    stable.check_admitted([new], [elsewhere])
    stable.check_admitted([new], [elsewhere / "verdict.json"])
    with pytest.raises(UserError, match="no verdict there"):
        stable.check_admitted([new], [tmp_path / "nowhere"])
    (tmp_path / "n1" / "verdict.json").write_text("{")
    with pytest.raises(UserError, match=r"verdict.json: damaged"):
        stable.check_admitted([new])


def test_a_verdict_is_about_the_data_that_it_judged(tmp_path: Path) -> None:
    one, two = folder(tmp_path / "n1", [sample("a")]), folder(tmp_path / "n2", [sample("b"), sample("v", split="val")])
    first, second = judged(tmp_path / "v1", one, "admit"), judged(tmp_path / "v2", two, "admit")
    stable.check_admitted([one, two], [second, first])
    with pytest.raises(UserError, match=r"n2: the verdicts that there are .* are about other data"):
        stable.check_admitted([one, two], [first])  # one verdict does not admit all
    with pytest.raises(UserError, match=r"v2.verdict.json: is about none of the new data"):
        stable.check_admitted([one], [first, second])
    judged(tmp_path / "v2", two, "admit", [sample("b")])  # what is kept apart is not what was judged
    stable.check_admitted([two], [second])
    write_json(tmp_path / "v1" / "verdict.json", {"verdict": "admit"})  # of whatever
    with pytest.raises(UserError, match="about other data"):
        stable.check_admitted([one], [first])


def test_a_runs_own_verdict_counts_for_what_it_made(tmp_path: Path) -> None:
    run = tmp_path / "run"
    write_json(run / "run.json", {})
    data = folder(run / "data", [sample("a")])
    knowledge = folder(run / "sets" / "knowledge", [sample("a", lineage=["before"])])
    judged(run / "assess", data, "reject")
    for made in (data, knowledge):
        with pytest.raises(UserError, match="the rapid assessment says reject"):
            stable.check_admitted([made])
    judged(run / "assess", data, "admit")
    stable.check_admitted([data, knowledge])
    judged(run / "assess", data, "admit", [sample("z")])
    with pytest.raises(UserError, match="about other data"):  # the data were made anew since
        stable.check_admitted([data])
