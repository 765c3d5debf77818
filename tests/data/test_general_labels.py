"""The general set under the label tree: what our corpora drew by what was drawn, imported sets by matching."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from made_up import MadeUp
from PIL import Image

from open4ov import corpora
from open4ov.corpora.generate import CHINESE_TASKS
from open4ov.data import corpus_labels, labels
from open4ov.data.construct import build
from open4ov.data.labels import LabelTree
from open4ov.data.task import Task
from open4ov.errors import UserError
from open4ov.mllm.ask import AnswerError, Asker, Request
from open4ov.mllm.catalog import tags
from open4ov.recipe import DataSection, load
from open4ov.sample import Label, Sample, assistant, user
from open4ov.store import ImageStore, read_samples, write_samples

TREE = labels.load()


def known(sample: Sample, tree: LabelTree = TREE) -> Sample:
    return corpus_labels.labelled(sample, tree, corpus_labels.names(tree))


def ids(sample: Sample, axis: str) -> set[str]:
    return {
        found.id
        for one in known(sample).labels
        if one.axis == axis and (found := TREE.find(one.axis, one.l1, one.l2 or "")) is not None
    }


@pytest.mark.parametrize("task", corpora.TASKS)
def test_all_that_is_drawn_has_labels_on_both_axes_that_its_tags_bear_out(task: str) -> None:
    """By the tags of the label tree, which the catalog matches by: the ability's name the task, and the domain's
    something of the scene, where they have any."""
    for language in ("en", "zh") if task in CHINESE_TASKS else ("en",):
        for item in corpora.generate(task, "train", 12, 3, language):
            sample = known(item.sample)
            assert {one.axis for one in sample.labels} == {"domain", "ability"}
            (ability,) = (TREE.find("ability", one.l1, one.l2 or "") for one in sample.labels if one.axis == "ability")
            assert ability is not None
            assert not ability.tags or f"task:{task}" in ability.tags
            for one in sample.labels:
                low = TREE.find("domain", one.l1, one.l2 or "") if one.axis == "domain" else None
                if low is not None and low.id not in ("education.literacy", "education.arithmetic"):
                    parts = (sample.scene or {}).get("scenes", [sample.scene])
                    assert {tag for part in parts for tag in (f"kind:{part['kind']}", *tags(part))} & {
                        *low.tags, "kind:single", "kind:free",
                    }  # fmt: skip


def asked(task: str, question: str, answer: str, **scene: Any) -> Sample:
    messages = [user(question), assistant(answer)]
    return Sample(id="s", source="corpus:general", task=task, messages=messages, answer=answer, scene=scene)


def test_the_question_decides_between_labels_of_a_task() -> None:
    thing = {"type": "symbol", "name": "cat", "colour": "red"}
    for task, question, answer, ability in (
        ("counting", "How many red things are there?", "2", "counting.attribute"),
        ("counting", "红色的东西有几个？", "2", "counting.attribute"),
        ("counting", "Count the oranges.", "2", "counting.objects"),
        ("reading", "What is written?", "12 / 34", "reading.numbers"),
        ("reading", "What is written?", "door", "reading.text"),
        ("position", "Is the cat left or right of the dog?", "left", "spatial.relations"),
        ("position", "What is below the cat?", "dog", "spatial.relations"),
        ("position", "In which row is the cat?", "2", "spatial.location"),
        ("comparing", "Which picture has more cats, the first or the second?", "first", "comparison.quantity"),
        ("comparing", "Which object is in both pictures?", "cat", "comparison.images"),
        ("charts", "Which bar is the tallest?", "May", "charts.extreme"),
        ("charts", "How high is May?", "3", "charts.value"),
    ):
        assert ids(asked(task, question, answer, kind="grid", objects=[thing, thing]), "ability") == {ability}


def test_what_was_drawn_decides_the_domain() -> None:
    cat, dog = ({"type": "symbol", "name": name} for name in ("cat", "dog"))
    seven, letter = ({"type": "character", "name": name} for name in ("7", "K"))
    for scene, domain in (
        ({"kind": "single", "objects": [cat]}, {"nature.animals"}),
        ({"kind": "grid", "objects": [cat, cat]}, {"nature.animals"}),
        ({"kind": "grid", "objects": [cat, dog]}, {"daily_life.household"}),
        ({"kind": "grid", "objects": [seven, seven]}, {"education.arithmetic"}),
        ({"kind": "grid", "objects": [seven, letter]}, {"education.literacy"}),
        ({"kind": "text", "of": "word"}, {"education.literacy"}),
        ({"kind": "text", "of": "sum"}, {"education.arithmetic"}),
        ({"kind": "chart"}, {"business.charts"}),
        ({"kind": "pair", "scenes": [{"kind": "single", "objects": [cat]}] * 2}, {"nature.animals"}),
        ({"kind": "none", "of": "arithmetic"}, {"education.arithmetic"}),
        ({"kind": "none", "of": "instruction", "do": "spell"}, {"education.literacy"}),
        ({"kind": "none", "of": "instruction", "do": "larger"}, {"education.arithmetic"}),
    ):
        assert ids(asked("naming", "What is it?", "x", **scene), "domain") == domain


def test_labels_that_are_there_stay_and_a_tree_without_the_ids_gives_none() -> None:
    sample = asked("charts", "How high is May?", "3", kind="chart")
    mine = sample.model_copy(update={"labels": [Label(axis="domain", l1="Mine")]})
    assert known(mine).labels == mine.labels
    other = TREE.model_copy(update={"domain": TREE.domain[:1]})
    assert [one.axis for one in known(sample, other).labels] == ["ability"]


class Ranker(MadeUp):
    """Ranks the pictures whose conversations speak of charts, and nothing else above Others; none for one of them."""

    def answer(self, request: Request) -> dict[str, Any]:
        found = super().answer(request)
        if request.role != "rank":
            return found
        if "no answer" in request.prompt.text:
            raise AnswerError("not today", "timeout")
        above = {"domain": "Business and data", "ability": "Chart understanding"}
        charts = "bar" in request.prompt.text and "conversation" in request.prompt.template
        for axis, name in above.items():
            rest = [one for one in found[axis] if one not in (name, "Others")]
            found[axis] = [name, "Others", *rest] if charts else ["Others", name, *rest]
        return found


@pytest.fixture
def task(tmp_path: Path) -> Task:
    store = ImageStore(tmp_path / "store")
    shas = [store.put(Image.new("RGB", (40, 40), (20 * n, 90, 30))) for n in range(4)]

    def general(name: str, question: str, shown: list[str], **more: Any) -> Sample:
        messages = [user(question, images=len(shown)), assistant("three")]
        return Sample(id=name, source="open", task="open", images=shown, messages=messages, answer="three", **more)

    kept = [Label(axis="domain", l1="Nature", l2="Animals"), Label(axis="ability", l1="Counting", l2="Object counting")]
    samples = [
        general("chart", "How high is the bar of May?", shas[:1]),
        general("two", "Which bar is higher?", shas[1:3]),
        general("other", "What is this?", shas[3:]),
        general("silent", "no answer to this bar", shas[:1]),
        general("words", "How high is a bar?", []),
        general("labelled", "How many cats?", shas[:1], labels=kept),
    ]
    write_samples(tmp_path / "general.parquet", samples)
    write_samples(tmp_path / "images.parquet", [Sample(id="v", source="t", task="image", images=shas[:1])])
    section = DataSection(match_general=True, chunk=2, topics_per_pair=1)
    return Task(section, tmp_path / "images.parquet", store.root, tmp_path / "work", 0, tmp_path / "general.parquet")


def test_an_imported_set_is_matched_and_what_stays_without_labels_is_counted(task: Task, tmp_path: Path) -> None:
    provider = Ranker()
    told = build(task, tmp_path / "out", Asker(task.section, {"default": provider}))
    found = {sample.id: sample for sample in read_samples(tmp_path / "out" / "general.parquet")}
    assert list(found) == ["chart", "two", "other", "silent", "words", "labelled"]
    for name in ("chart", "two"):
        assert {(one.axis, one.l1) for one in found[name].labels} == {
            ("domain", "Business and data"), ("ability", "Chart understanding"),
        }  # fmt: skip
        assert found[name].topics[0].startswith("Chart understanding ~ ")
    assert [found[name].labels for name in ("other", "silent", "words")] == [[], [], []]
    assert found["labelled"].labels[0].l2 == "Animals"
    assert {key: told["general_labels"][key] for key in ("samples", "labelled", "came_labelled")} == {
        "samples": 6, "labelled": 3, "came_labelled": 1,
    }  # fmt: skip
    assert (told["general_labels"]["no_answer"], told["general_labels"]["without_picture"]) == (1, 1)
    assert told["unanswered"]["steps"]["rank"] == {"answer timeout": 1}
    asked = Counter(one.role for one in provider.asked)
    assert asked["rank"] == 5  # one of the vertical, four of the general set
    build(task, tmp_path / "again", Asker(task.section, {"default": provider}))
    assert Counter(one.role for one in provider.asked)["rank"] == 5  # what is done is not asked again


def test_without_the_option_an_imported_set_stays_as_it_is(task: Task, tmp_path: Path) -> None:
    plain = Task(DataSection(topics_per_pair=1), task.source, task.store, task.work, 0, task.general)
    told = build(plain, tmp_path / "out", Asker(plain.section, {"default": MadeUp()}))
    assert task.general is not None
    assert (tmp_path / "out" / "general.parquet").read_bytes() == task.general.read_bytes()
    assert "general_labels" not in told


def test_a_corpus_needs_no_matching(tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_text("name: t\ndata:\n  match_general: true\n")
    with pytest.raises(UserError, match=r"line 3: data\.match_general: has no effect: images\.general is a corpus"):
        load(file)
