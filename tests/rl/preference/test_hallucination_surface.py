"""Nothing on a question's surface tells which one is refused."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np
from made_up_pairs import Oracle, picture, sample

from open4ov.answers import INSTRUCTION
from open4ov.recipe_dpo import ABLATED
from open4ov.rl import hallucination
from open4ov.rl.preference.controls import Texts, cell, variants
from open4ov.sample import Sample


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
