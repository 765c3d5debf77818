"""The offline provider: honest about what it cannot know, and with three judges that do not follow one another."""

from __future__ import annotations

import random
from typing import Any

import pytest
from PIL import Image

from open4ov import corpora
from open4ov.corpora import in_car
from open4ov.corpora.in_car.questions import phrasings
from open4ov.mllm import JUDGES, AnswerError, Asker, Picture, Prompt
from open4ov.mllm.answers import Density, Judgement, Pairs, Ranking, Verification
from open4ov.mllm.known import known, right
from open4ov.recipe import DataSection

NAMING = {"domain": ["category:tell_tale"], "ability": ["task:in_car_name"]}
TOPIC = "Recognition ~ Symbol naming ~ Naming brake warning lights"


@pytest.fixture(scope="module")
def asker() -> Asker:
    return Asker(DataSection())


def shown(symbol: str, annotated: str | None = None, index: int = 5) -> Picture:
    """A rendering of a symbol, annotated as that symbol or another one."""
    image = in_car.render(in_car.symbol(symbol), "train", index, 0)
    scene = in_car.scene(in_car.symbol(annotated or symbol), "train")
    return Picture(f"{symbol}/{index}", lambda: image, scene)


def values(answer: str, **more: Any) -> dict[str, Any]:
    base = {"topic": TOPIC, "question": "What is this symbol?", "answer": answer, "language": "en", "tags": NAMING}
    return {**base, **more}


def votes(asker: Asker, picture: Picture, asked: dict[str, Any]) -> list[int | None]:
    return [asker.ask(judge, Prompt("judge", asked), (picture,), Judgement)["score"] for judge in JUDGES]


def test_all_three_judges_agree_on_a_sound_sample(asker: Asker) -> None:
    assert votes(asker, shown("parking_brake"), values("parking brake")) == [1, 1, 1]
    assert votes(asker, shown("parking_brake"), values("Handbrake.")) == [1, 1, 1]


def test_all_three_reject_a_wrong_answer(asker: Asker) -> None:
    assert votes(asker, shown("parking_brake"), values("anti-lock brakes")) == [0, 0, 0]


def test_a_wrong_annotation_is_outvoted(asker: Asker) -> None:
    """The picture shows a parking brake, its annotation and the sample say ABS: only the rules believe it."""
    picture = shown("parking_brake", annotated="abs")
    assert votes(asker, picture, values("anti-lock brakes")) == [1, 0, 0]
    # and what the picture does show outvotes the annotation
    assert votes(asker, picture, values("parking brake")) == [0, 1, 1]


def test_only_the_rules_judge_needs_or_sees_the_annotation(asker: Asker) -> None:
    bare = shown("parking_brake")
    bare = Picture(bare.sha, bare.load, None)
    assert votes(asker, bare, values("parking brake")) == [None, 1, 1]


def test_pixels_and_embedding_abstain_before_what_they_do_not_know(asker: Asker) -> None:
    grey = Image.new("RGB", (96, 96), (90, 95, 99))
    picture = Picture("grey", lambda: grey, in_car.scene(in_car.symbol("abs"), "train"))
    assert votes(asker, picture, values("anti-lock brakes")) == [1, None, None]


def test_a_question_without_a_rule_is_an_abstention_not_a_verdict(asker: Asker) -> None:
    found = votes(asker, shown("abs"), values("anti-lock brakes", question="Who built this car, zqx?"))
    assert found[:2] == [None, None]
    assert found[2] is None or found[2] == 0


def test_a_topic_of_another_ability_is_rejected_by_rules_and_embedding(asker: Asker) -> None:
    tags = {"domain": ["category:tell_tale"], "ability": ["task:in_car_action"]}
    topic = "Knowledge ~ What to do ~ What to do about brake warning lights"
    assert votes(asker, shown("abs"), values("anti-lock brakes", tags=tags, topic=topic)) == [0, 1, 0]


def test_a_topic_of_another_domain_is_rejected_by_the_pixels_too(asker: Asker) -> None:
    tags = {"domain": ["category:road_sign"], "ability": ["task:in_car_name"]}
    asked = values("anti-lock brakes", tags=tags, topic="Recognition ~ Symbol naming ~ Naming warning signs")
    assert votes(asker, shown("abs"), asked)[:2] == [0, 0]


@pytest.mark.parametrize("role", ["rank", "density", "synthesize", "verify"])
def test_images_without_annotation_are_refused_with_what_to_do(asker: Asker, role: str) -> None:
    picture = Picture("bare", lambda: Image.new("RGB", (8, 8)), None)
    schema = {"rank": Ranking, "density": Density, "synthesize": Pairs, "verify": Verification}[role]
    asked = {"labels": {"domain": [], "ability": []}, **values("a"), "response": "a"}
    with pytest.raises(AnswerError, match=r"unannotated images need an endpoint.*kind: openai"):
        asker.ask(role, Prompt(role, asked), (picture,), schema)


@pytest.mark.parametrize("scene", [{"kind": "photo"}, {"kind": "in_car"}, {"qa": [{"question": "q"}]}, {"qa": 3}])
def test_an_annotation_that_cannot_be_read_is_refused(asker: Asker, scene: dict[str, Any]) -> None:
    picture = Picture("odd", lambda: Image.new("RGB", (8, 8)), scene)
    with pytest.raises(AnswerError, match="annotation"):
        asker.ask("rank", Prompt("rank", {"labels": {"domain": [], "ability": []}}), (picture,), Ranking)


def test_ranking_puts_what_the_scene_has_above_others_and_nothing_else(asker: Asker) -> None:
    labels = {
        "domain": [{"name": "Nature", "tags": [["object:cat"]]}, {"name": "Cars", "tags": [["category:tell_tale"]]}],
        "ability": [
            {"name": "Counting", "tags": [["task:counting"]]},
            {"name": "Naming", "tags": [["task:in_car_name"]]},
            {"name": "Knowledge", "tags": [["task:in_car_meaning"], ["task:in_car_action"], []]},
        ],
    }
    answer = asker.ask("rank", Prompt("rank", {"labels": labels}), (shown("abs"),), Ranking)
    assert answer["domain"] == ["Cars", "Others", "Nature"]
    assert answer["ability"] == ["Knowledge", "Naming", "Others", "Counting"]
    assert "anti-lock brakes" in answer["description"]


def test_density_grows_with_what_a_scene_holds(asker: Asker) -> None:
    def density(scene: dict[str, Any]) -> dict[str, float]:
        picture = Picture("x", lambda: Image.new("RGB", (8, 8)), scene)
        return asker.ask("density", Prompt("density", {}), (picture,), Density)

    grids = [item.sample.scene for item in corpora.generate("counting", "val", 30) if item.sample.scene]
    small, large = (pick(grids, key=lambda scene: len(scene["objects"])) for pick in (min, max))
    assert density(small)["space"] < density(large)["space"]
    scenes = [item.sample.scene or {} for item in corpora.generate("reading", "val", 30)]
    text = next(scene for scene in scenes if scene["kind"] == "text")
    assert density(text)["ocr"] > density(small)["ocr"]
    assert density(in_car.scene(in_car.symbol("abs"), "train"))["knowledge"] > density(large)["knowledge"] == 0


def test_verification_tells_its_five_dimensions_apart(asker: Asker) -> None:
    question = "What does this symbol mean and what should I do?"
    scene = in_car.scene(in_car.symbol("abs"), "train")
    (right,) = known(scene, "en")[question]
    tags = {"domain": ["category:tell_tale"], "ability": ["task:in_car_advice"]}

    def failed(answer: str, response: str, tags: dict[str, list[str]] = tags) -> set[str]:
        asked = {**values(answer), "question": question, "response": response, "tags": tags}
        checks = asker.ask("verify", Prompt("verify", asked), (shown("abs"),), Verification)
        return {name for name, check in checks.items() if not check["ok"]}

    assert failed(right.answer, right.response) == set()
    assert failed("It is a bird.", right.response) >= {"accuracy", "completeness"}
    assert failed(right.answer, "It is a bird.") == {"completeness", "authenticity"}
    assert failed(right.answer, right.response, NAMING) == {"relevance"}
    assert "plausibility" in failed(right.answer, f"{right.response} {right.response}")
    assert "plausibility" in failed(right.answer, right.response + " (see")


def test_synthesis_follows_the_topics_the_budget_and_the_languages(asker: Asker) -> None:
    topics = [{"path": TOPIC, "tags": NAMING}]

    def pairs(budget: int, languages: list[str]) -> list[dict[str, Any]]:
        asked = {"topics": topics, "budget": budget, "languages": languages, "seed": 0, "annotation": ""}
        return asker.ask("synthesize", Prompt("synthesize", asked), (shown("abs"),), Pairs)["pairs"]

    assert len(pairs(3, ["en", "zh"])) == 3
    many = pairs(99, ["zh"])
    assert {(pair["task"], pair["language"], pair["topic"]) for pair in many} == {("in_car_name", "zh", TOPIC)}
    wordings = phrasings("tell_tale", "in_car_name", "zh")
    assert sorted(pair["question"] for pair in many) == sorted(wordings)  # all of them, each once
    assert pairs(3, ["en", "zh"]) == pairs(3, ["en", "zh"])


def test_known_questions_hold_every_wording_and_only_right_answers() -> None:
    scene = in_car.scene(in_car.symbol("abs"), "train")
    for language in ("en", "zh"):
        book = known(scene, language)
        for draw in range(200):
            for qa in in_car.questions(scene, random.Random(f"other/{draw}"), language):
                assert qa.answer in [found.answer for found in book[qa.question]]


def test_pairs_that_come_with_an_annotation_are_not_lost(asker: Asker) -> None:
    scene = {"qa": [{"question": "谁在车里？", "answer": "没有人", "language": "zh", "task": "who"}]}
    assert known(scene, "zh")["谁在车里？"][0].answer == "没有人"
    assert known(scene, "en") == {}


def test_annotated_numbers_and_truth_are_answers(asker: Asker) -> None:
    """As synthesis writes them, or the rules judge would call them wrong."""
    scene = {"qa": [{"question": "How many?", "answer": 0}, {"question": "Open?", "answer": False},
                    {"question": "Which?", "answer": None}]}  # fmt: skip
    found = known(scene, "en")
    assert {question: qa.answer for question, (qa,) in found.items()} == {"How many?": "0", "Open?": "no"}
    assert right(found["Open?"][0], "false")
