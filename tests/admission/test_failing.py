"""Groups of failures, and what is asked of data construction for each."""

from __future__ import annotations

from pathlib import Path

import pytest

from open4ov import feedback
from open4ov.admission.assess import Asked
from open4ov.admission.failing import LEAST, Flaws, flaws, groups, wishes
from open4ov.admission.failing import feedback as feedback_of
from open4ov.data.language import answers_in
from open4ov.sample import Label, Sample, assistant, user

NONE = Flaws([], [])


def sample(
    name: str, task: str = "name", domain: str | None = "Cars ~ Lights", topic: str = "", **more: object
) -> Sample:
    labels = [Label(axis="domain", l1=domain.split(" ~ ")[0], l2=domain.split(" ~ ")[1])] if domain else []
    fields = {"images": [name], "messages": [user("What is it?", 1), assistant("oil")], "answer": "oil", **more}
    return Sample(id=name, source="t", task=task, labels=labels, topics=[topic] if topic else [], **fields)  # pyright: ignore[reportArgumentType]


def asked(names: list[str], rights: str, probe: str = "vertical") -> list[Asked]:
    """`rights`: a letter a question: k(ept right), g(ained), l(ost), w(rong in both)."""
    pairs = {"k": (True, True), "g": (False, True), "l": (True, False), "w": (False, False)}
    return [
        Asked(name, probe, 0, "before", "after", pairs[letter], (True, True))
        for name, letter in zip(names, rights, strict=True)
    ]


def wish_of(rights: str, verdict: str = "reject", own: str = "", seen: Flaws = NONE, probe: str = "vertical"):
    names = [f"q{i}" for i in range(len(rights))]
    own_names = [f"o{i}" for i in range(len(own))]
    questions = {name: sample(name) for name in (*names, *own_names)}
    everything = [*asked(names, rights, probe), *asked(own_names, own, "own")]
    (group,) = groups(everything, questions, [sample("b0"), sample("b1")], probe)
    made = wishes([group], verdict, seen)  # pyright: ignore[reportArgumentType]
    return made[0] if made else None


def test_what_got_worse_is_to_be_made_better() -> None:
    wish = wish_of("llllkkkkww")
    assert (wish.want, wish.domain, wish.task) == ("better", "Cars ~ Lights", "name")
    assert (wish.asked, wish.failed, wish.samples) == (10, 6, ["b0", "b1"])
    assert "worse" in wish.reason


def test_what_improved_and_is_low_is_to_be_more() -> None:
    wish = wish_of("ggkwwwwwww")
    assert (wish.want, wish.weight, wish.samples) == ("more", 2.67, [])  # 0.8 / 0.3
    assert wish_of("gggggggggw") is None


def test_what_did_not_move_tells_wrong_data_from_torn_ones_by_the_datas_own_questions() -> None:
    learned, torn = wish_of("kwwwwwwwww", own="gggwwwww"), wish_of("kwwwwwwwww", own="wwwwwwww")
    assert learned.want == torn.want == "better"
    assert "not what the probe holds" in learned.reason
    assert "nothing was learned" in torn.reason
    assert wish_of("kwwwwwwwww", "admit").want == "more"


def test_in_a_rejected_set_a_rise_by_form_alone_is_none() -> None:
    names = [f"q{i}" for i in range(10)]
    (group,) = groups(asked(names, "gwwwwwwwww"), {name: sample(name) for name in names}, [sample("b")], "vertical")
    wanted = {verdict: wishes([group], verdict, NONE, 0.2)[0].want for verdict in ("admit", "undecided", "reject")}
    assert wanted == {"admit": "more", "undecided": "more", "reject": "better"}


def test_flaws_that_can_be_seen_go_first_and_name_their_samples() -> None:
    wish = wish_of("ggggwwwwww", seen=Flaws(["b1", "elsewhere"], []))
    assert (wish.want, wish.samples) == ("better", ["b1"])
    assert "another language" in wish.reason


def test_all_samples_that_are_seen_to_be_wrong_are_named() -> None:
    """Data construction bars the samples that a wish names, and no others."""
    names = [f"q{i}" for i in range(10)]
    batch = [sample(f"b{i}") for i in range(70)]
    (group,) = groups(asked(names, "gggggwwwww"), {name: sample(name) for name in names}, batch, "vertical")
    seen = Flaws([f"b{i}" for i in range(40)], [f"b{i}" for i in range(30, 60)])
    (wish,) = wishes([group], "reject", seen)
    assert wish.samples == [f"b{i}" for i in range(60)]
    assert "40 of 70 samples answer in another language" in wish.reason
    assert "30 of 70 samples contradict" in wish.reason


def test_general_abilities_that_were_lost_are_told_and_not_asked_of_the_verticals_data() -> None:
    for rights, harmed in (("lllllkkkkk", True), ("lkkkkkkkkw", False)):
        assert wish_of(rights, "reject", probe="general") is None
        names = [f"q{i}" for i in range(10)]
        (group,) = groups(asked(names, rights, "general"), {name: sample(name) for name in names}, [], "general")
        assert bool(group.harm) == harmed
    assert wish_of("lllllkkkkk").want == "better"


def test_a_question_belongs_to_the_finest_group_that_is_large_enough() -> None:
    many = [sample(f"m{i}", topic="A ~ B ~ many") for i in range(LEAST)]
    few = [sample(f"f{i}", topic="A ~ B ~ few") for i in range(2)]
    other = [sample(f"x{i}", domain="Cars ~ Signs") for i in range(LEAST - 1)]
    questions = {s.id: s for s in (*many, *few, *other)}
    found = groups(asked(list(questions), "w" * len(questions)), questions, [], "vertical")
    assert {group.place: len(group.asked) for group in found} == {
        ("Cars ~ Lights", None, "A ~ B ~ many", "name"): LEAST,
        (None, None, None, "name"): 2 + LEAST - 1,
    }


def test_a_question_without_labels_takes_those_of_the_data_about_the_same_thing() -> None:
    scene = {"objects": [{"name": "low fuel"}]}
    batch = [sample("b0", scene=scene, topic="A ~ B ~ fuel")]
    questions = {f"q{i}": sample(f"q{i}", domain=None, scene=scene) for i in range(LEAST)}
    (group,) = groups(asked(list(questions), "w" * LEAST), questions, batch, "vertical")
    assert group.place == ("Cars ~ Lights", None, "A ~ B ~ fuel", "name")
    assert [s.id for s in group.samples] == ["b0"]


def test_flaws_are_answers_in_another_language_and_contradictions() -> None:
    def one(name: str, picture: str, question: str, answer: str, language: str = "en") -> Sample:
        messages = [user(question, 1), assistant(answer)]
        return sample(name, images=[picture], messages=messages, answer=answer, language=language)

    batch = [
        one("a", "p1", "What is it?", "low fuel"),
        one("b", "p1", "what is  it?", "seat belt"),
        one("c", "p2", "What is it?", "low fuel"),
        one("d", "p3", "What is it?", "这是燃油不足警告灯，请尽快加油，不要再开很远。"),
        one("e", "p3", "这是什么？", "燃油不足", "zh"),
    ]
    assert flaws(batch, answers_in) == Flaws(language=["d"], contradicting=["a", "b"])


def test_the_feedback_file_is_one_that_data_construction_reads(tmp_path: Path) -> None:
    wish = wish_of("llllkkkkww")
    feedback_of([wish], "rapid assessment of x: reject").write(tmp_path / "feedback.yaml")
    read = feedback.read(tmp_path / "feedback.yaml")
    assert read.wishes == [wish]
    assert read.source.endswith("reject")


@pytest.mark.parametrize("rights", ["", "k"])
def test_groups_without_failures_wish_for_nothing(rights: str) -> None:
    assert wish_of(rights * LEAST) is None if rights else groups([], {}, [], "vertical") == []
