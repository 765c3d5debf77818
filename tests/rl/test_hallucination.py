from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from PIL import Image

from open4ov.answers import INSTRUCTION
from open4ov.engine import Completion, Request
from open4ov.recipe_dpo import ABLATED, MADE, MIX
from open4ov.refusals import denies, refuses
from open4ov.rl import ablated, hallucination
from open4ov.rl.controls import Texts, cell, variants
from open4ov.rl.hallucination import Draft, Made, complete
from open4ov.rl.refusal_phrases import STATEMENTS, Case, refusals
from open4ov.sample import Sample, assistant, user

EVERY = {kind: 1 / len(MADE) for kind in MADE}
WORKED = "3 cats and 4 dogs. 3+4=7. \\boxed{7}"


def sample(name: str, task: str, answer: str, image: bool, response: str = "", question: str = "") -> Sample:
    return Sample(
        id=name,
        source="t",
        task=task,
        images=[name] if image else [],
        messages=[user(question or f"{task} {name}?", images=1 if image else 0), assistant(response or answer)],
        answer=answer,
    )


def pool() -> list[Sample]:
    made = [sample(f"c{i}", "colour", "red", True) for i in range(30)]
    made += [sample(f"r{i}", "reasoning", "7", True, WORKED) for i in range(20)]
    made += [
        sample(f"w{i}", "reasoning", "7", True, "Let me look. So the final answer is \\boxed{7}") for i in range(9)
    ]
    made += [sample(f"t{i}", "arithmetic", "5", False, "2+3=5. \\boxed{5}") for i in range(20)]
    return made


class Oracle:
    """An engine that says what it is told to: by the question, and whether there is a picture."""

    def __init__(self, say: Callable[[str, bool], str]) -> None:
        self.say, self.asked = say, list[Request]()

    def generate(self, requests: Sequence[Request], progress: object = None) -> list[list[Completion]]:
        self.asked += requests
        texts = [self.say(request.messages[-1].text, shown(request)) for request in requests]
        return [[Completion(text, [1], [0.0], "stop", 0)] for text in texts]


def knows(blind: str = "blue") -> Oracle:
    """Answers rightly what it sees, and what needs no picture; without its picture it says `blind`."""

    def say(question: str, picture: bool) -> str:
        if question.startswith("arithmetic"):
            return "2+3=5. \\boxed{5}" if "boxed" in question else "5"
        return ("red" if question.startswith("colour") else WORKED) if picture else blind

    return Oracle(say)


def picture(sha: str) -> Image.Image:
    return Image.new("RGB", (48, 32), (255, 255, 255) if sha.startswith("new") else (200, 10, 10))


def shown(request: Request) -> bool:
    return any(image.getpixel((0, 0)) == (200, 10, 10) for image in request.images)


def build(engine: Oracle, count: int = 100, **options: object) -> Made:
    kept: list[Image.Image] = []
    options = {"put": lambda image: kept.append(image) or f"new{len(kept)}", **options}
    return hallucination.build(pool(), count, engine, picture, 0, **options)  # pyright: ignore[reportArgumentType]


def test_pairs_of_every_kind_and_nothing_lost_in_counting() -> None:
    made = build(knows(), mix={kind: share for kind, share in EVERY.items() if kind not in ABLATED[2:]})
    assert {p.extra["pair"] for p in made.pairs} == set(MADE) - set(ABLATED[2:])
    assert Counter(p.extra["pair"] for p in made.pairs) == {k: v for k, v in made.counts.items() if k in MADE}
    for pair in made.pairs:
        assert pair.rejected is not None
        chosen, rejected, kind = pair.messages[-1].text, pair.rejected[-1].text, pair.extra["pair"]
        assert chosen != rejected
        shown = [p.index for m in pair.messages for p in m.content if p.type == "image"]
        assert shown == list(range(len(pair.images)))
        if kind == "missing_image":
            assert not pair.images
            assert chosen in refusals("missing", "en")
            assert rejected == "blue"
            assert len(pair.extra["pair_about"]) == 1
        if kind == "blank_image":
            assert pair.images[0].startswith("new")
            assert chosen in refusals("unseen", "en")
        if kind in ("image_normal", "text_normal", "mismatch"):
            assert refuses(rejected) or denies(rejected)
            assert chosen in {"red", WORKED, "5", "2+3=5. \\boxed{5}"}
        if kind == "context":
            assert [m.role for m in pair.messages] == ["user", "assistant"] * 2
        if kind == "brevity":
            assert len(rejected) > 2 * len(chosen)
            assert "final answer" not in chosen
    assert made.pairs == build(knows(), mix={kind: EVERY[kind] for kind in EVERY if kind not in ABLATED[2:]}).pairs


def test_only_what_the_model_sees_is_asked_without_its_picture() -> None:
    """A question that it never gets right with its picture would else only ever be refused."""
    engine = Oracle(lambda question, seen: "red" if question.startswith("colour") and seen else "what?")
    made = build(engine)
    refused = {p.messages[0].text for p in made.pairs if p.extra["pair"] == "missing_image"}
    answered = {p.messages[0].text for p in made.pairs if p.extra["pair"] == "image_normal"}
    assert refused
    assert refused <= answered
    assert made.counts["not_known"] > 0


def test_what_is_answered_rightly_without_its_picture_makes_no_pair() -> None:
    made = build(knows(blind="red"))
    assert [p for p in made.pairs if p.extra["pair"] == "missing_image" and p.answer == "red"] == []
    assert made.counts["guessed_blind"] > 5
    assert len(made.guessed) == made.counts["guessed_blind"]
    assert all(name.startswith("c") for name in made.guessed)
    assert "guessed_blind" not in build(knows()).counts


def test_a_model_that_refuses_already_needs_no_pair() -> None:
    made = build(knows(blind=STATEMENTS["missing"]["en"][1]))
    assert "missing_image" not in made.counts
    assert made.counts["already_right"] >= 25


def test_a_model_that_says_nothing_is_counted_apart() -> None:
    for silence in ("", " \n"):
        made = build(knows(blind=silence))
        assert made.counts["said_nothing"] >= 25
        assert "already_right" not in made.counts
    seen = sample("c", "colour", "red", True)
    assert complete(Draft("context", seen, [seen.messages[0]], ["c"], None, "5"), " ") == "said_nothing"


def test_pairs_that_differ_in_the_rejected_response_are_two() -> None:
    """Two made-up answers to one question make two pairs."""
    seen = sample("c", "colour", "red", True)
    drafts = [Draft("missing_image", seen, [user("colour?")], [], "There is no picture.", said) for said in ("a", "b")]
    assert len({hallucination._pair(draft).id for draft in drafts}) == 2  # pyright: ignore[reportPrivateUsage]


def test_a_right_answer_of_its_own_is_the_chosen_one() -> None:
    worked = sample("w", "reasoning", "7", True, "Let me look. So the final answer is \\boxed{7}")
    for kind in ("image_normal", "text_normal", "mismatch"):
        draft = Draft(kind, worked, [worked.messages[0]], ["w"], None, "no picture")
        assert complete(draft, "3+4=7. \\boxed{7}") is None
        assert draft.chosen == "3+4=7. \\boxed{7}"
        draft = Draft(kind, worked, [worked.messages[0]], ["w"], None, "no picture")
        assert complete(draft, "\\boxed{8}") == "not_known"


def test_a_distractor_is_used_only_when_the_model_is_right() -> None:
    seen = sample("c", "colour", "red", True)
    draft = Draft("context", seen, [seen.messages[0]], ["c"], None, "5")
    assert complete(draft, "red") is None
    assert (draft.chosen, draft.rejected) == ("red", "5")
    assert complete(draft, "blue") is None
    assert (draft.chosen, draft.rejected) == ("red", "blue")


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("case", ["missing", "unseen"])
def test_what_is_taught_as_a_refusal_counts_as_one(case: Case, language: str) -> None:
    wordings = refusals(case, language)
    assert len(set(wordings)) == len(wordings) >= 20
    for text in wordings:
        assert refuses(text) if case == "missing" else denies(text) and not refuses(text), text


# ---- nothing on a question's surface tells which one is refused ----


def many() -> list[Sample]:
    """Questions about pictures of many lengths, with and without a box, in both languages, and such without."""
    made: list[Sample] = []
    for n in range(240):
        language, boxed = ("en", "zh")[n % 2], n % 3 == 0
        word = "这是什么？" * (1 + n % 5) if language == "zh" else "what is this " * (1 + n % 5)
        text = "算一算吧？" * (1 + n % 5) if language == "zh" else "count it all  " * (1 + n % 5)
        tail = INSTRUCTION[language] if boxed else ""
        for kind, image, said in (("seen", True, word), ("sum", False, text)):
            one = sample(f"{kind}{n}", kind, "7", image, "\\boxed{7}" if boxed else "7", f"{said}{n}{tail}")
            made.append(one.model_copy(update={"language": language}))
    return made


def asked(mix: dict[str, float]) -> list[tuple[str, Sample]]:
    engine = Oracle(lambda question, seen: "\\boxed{7}" if seen or "count" in question or "算" in question else "9")
    made = hallucination.build(many(), 400, engine, picture, 3, put=lambda image: "new", mix=mix)
    return [(str(pair.extra["pair"]), pair) for pair in made.pairs]


def probe(rows: Sequence[tuple[Sequence[object], bool]]) -> float:
    """Naive Bayes over what each question is made of, learnt on one half and asked about the other: how many of 100 it
    is right about, both classes counting alike."""
    counts = {label: Counter[object]() for label in (False, True)}
    for features, label in rows[::2]:
        counts[label].update(set(features))
    sizes = {label: max(sum(one == label for _, one in rows[::2]), 1) for label in counts}
    right: dict[bool, list[bool]] = defaultdict(list)
    for features, label in rows[1::2]:
        score = {
            guess: sum(np.log((counts[guess][f] + 0.5) / (sizes[guess] + 1)) for f in set(features)) for guess in counts
        }
        right[label].append(score[label] > score[not label])
    return 100 * float(np.mean([np.mean(found) for found in right.values()]))


def bag(sample: Sample) -> list[object]:
    question = sample.messages[-2].text
    return [*(question[i : i + 3] for i in range(len(question) - 2)), *question.split()]


def test_the_words_of_a_picture_question_tell_nothing() -> None:
    """A bag of words cannot tell the refused from the answered ones: only the picture can."""
    pairs = asked({"missing_image": 0.25, "blank_image": 0.25, "image_normal": 0.25, "text_normal": 0.25})
    rows = [(bag(pair), kind in ABLATED) for kind, pair in pairs if kind != "text_normal"]
    assert len(rows) >= 200
    rng = np.random.default_rng(0)
    rng.shuffle(rows)  # pyright: ignore[reportArgumentType]
    assert probe(rows) < 60


def test_the_surface_of_a_question_without_a_picture_tells_nothing() -> None:
    """Language, box and length are alike in the refused and in the answered; the sense of the words differs."""
    pairs = asked({"missing_image": 0.25, "image_normal": 0.5, "text_normal": 0.25})
    bare = [(pair, kind in ABLATED) for kind, pair in pairs if not pair.images]
    rng = np.random.default_rng(0)
    rng.shuffle(bare)  # pyright: ignore[reportArgumentType]
    assert probe([(list(enumerate(cell(pair))), label) for pair, label in bare]) < 60
    assert probe([([cell(pair)], label) for pair, label in bare]) < 60
    assert probe([(bag(pair), label) for pair, label in bare]) > 95, "the check is able to fail"


def test_texts_are_given_out_once_and_by_their_surface() -> None:
    texts = Texts([s for s in many() if not s.images], seed=0)
    for one in (s for s in many() if s.images):
        found = texts.like(one)
        assert found is not None
        assert cell(found)[0] == cell(one)[0]
    assert texts.like(many()[0]) is None
    short = sample("s", "sum", "7", False, question="one and six?")
    boxed = variants(short)[1]
    assert boxed.messages[0].text.endswith(INSTRUCTION["en"])
    assert boxed.messages[1].text == "\\boxed{7}"
    assert variants(boxed)[1].messages[0].text == "one and six?"


# ---- pictures that do not show what is asked ----

CAT = {"type": "symbol", "name": "cat", "colour": "red", "row": 1, "col": 1}
DOG = {"type": "symbol", "name": "dog", "colour": "blue", "row": 1, "col": 3}


def shows(name: str, question: str, *things: dict[str, object]) -> Sample:
    one = sample(name, "colour", "red", True, question=question)
    return one.model_copy(update={"scene": {"objects": list(things)}})


def colours(image: Image.Image) -> set[tuple[int, ...]]:
    return {tuple(pixel) for pixel in np.asarray(image).reshape(-1, 3).tolist()}


def test_hidden_evidence_leaves_no_pixel_of_it() -> None:
    scene = Image.new("RGB", (96, 32), (255, 255, 255))
    scene.paste((250, 0, 0), (4, 4, 28, 28))
    scene.paste((0, 0, 250), (68, 4, 92, 28))
    asked = shows("a", "What colour is the cat?", CAT, DOG)
    assert ablated.evidence(asked) == [(0, 0, 32, 32)]
    cropped = ablated.hidden(scene, ablated.evidence(asked))
    assert cropped.size == (64, 32)
    assert (250, 0, 0) not in colours(cropped)
    assert (0, 0, 250) in colours(cropped)
    framed = Image.new("RGB", (20, 60), (0, 200, 0))
    framed.paste((9, 9, 9), (1, 0, 19, 60))
    assert ablated.hidden(framed, [(1, 1, 19, 59)]).getpixel((10, 30)) == (0, 200, 0), "the border has four sides"
    across = [(0, 0, 96, 30)]
    painted = ablated.hidden(scene, across)
    assert painted.size == scene.size
    assert (250, 0, 0) not in colours(painted)


def test_what_the_question_names_decides() -> None:
    cat, dog = shows("a", "What colour is the cat?", CAT), shows("b", "What colour is the dog?", DOG)
    both, nameless = shows("c", "What colour is the cat?", CAT, DOG), shows("d", "What is this?", CAT)
    rng = __import__("random").Random(0)
    assert ablated.unrelated(cat, [cat, dog], rng) is dog
    assert ablated.unrelated(cat, [cat, both], rng) is None
    assert ablated.unrelated(nameless, [dog], rng) is None, "it can be answered from any picture"
    hat = {**CAT, "name": "hat"}
    assert ablated.named(shows("h", "What is the blue object?", hat)) == set(), "a word in another is none"
    assert ablated.named(shows("h", "How many hats are there?", hat)) == {"hat"}
    assert ablated.evidence(cat) == [], "all that is shown: that would be a blank"
    unknown = shows("e", "What colour is the cat?", {"name": "cat"}, {"name": "dog"})
    assert ablated.evidence(unknown) == [], "nobody knows where it is"
    own = shows("f", "What colour is the cat?", {"name": "cat", "box": [1, 2, 3, 4.2]}, {"name": "dog"})
    assert ablated.evidence(own) == [(1, 2, 3, 4)]
    found = shows("g", "猫是什么颜色？", {"name": {"en": "cat", "zh": "猫"}}, {"name": "dog"})
    assert ablated.named(found.model_copy(update={"language": "zh"})) == {"猫"}


def test_ablations_that_cannot_be_made_are_counted() -> None:
    made = build(knows(), mix={"unrelated_image": 0.2, "hidden_evidence": 0.2, "image_normal": 0.6})
    assert made.counts["cannot"] == 40
    assert set(made.counts) == {"cannot", "image_normal"}


def test_the_default_mix_sums_to_one() -> None:
    assert sum(MIX.values()) == pytest.approx(1)
    assert set(MIX) <= set(MADE)
