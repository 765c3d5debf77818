"""The leakage screen tells an answer that language gives away from a guess, however steady the guess is."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from open4ov.engine.request import Completion, Request
from open4ov.graph import StageRun
from open4ov.progress import Quiet
from open4ov.recipe import Recipe
from open4ov.rl.pool import leakage
from open4ov.rl.rewards import exact
from open4ov.rl.tasks import read
from open4ov.rollout_book import Book
from open4ov.rollouts import Sampling
from open4ov.sample import Part, Sample, assistant, user
from open4ov.stages import rl_pool
from open4ov.store import ImageStore, read_samples


def asked(name: str, answer: str, task: str = "t", **more: Any) -> Sample:
    about: dict[str, Any] = {"messages": [user(f"{name}?", images=1), assistant(answer)], "images": ["0" * 64]}
    return Sample.model_validate({"id": name, "source": "t", "task": task, "answer": answer, **about, **more})


def box(*answers: object) -> list[str]:
    return [f"So \\boxed{{{answer}}}" for answer in answers]


@given(st.integers(1, 12), st.data(), st.floats(0, 1))
def test_the_tail_is_that_of_all_outcomes_enumerated(responses: int, data: st.DataObject, chance: float) -> None:
    right = data.draw(st.integers(0, responses))
    total = 0.0
    for outcome in itertools.product((0, 1), repeat=responses):
        if sum(outcome) >= right:
            total += chance ** sum(outcome) * (1 - chance) ** (responses - sum(outcome))
    assert leakage.tail(right, responses, chance) == pytest.approx(total, abs=1e-9)


@pytest.mark.parametrize(
    ("right", "responses", "guess", "expected"),
    [
        (8, 8, 0.1, True),
        (8, 8, 1.0, False),
        (8, 8, 0.5, True),  # 0.5^8 = 0.0039
        (4, 4, 0.5, False),  # 0.0625
        (5, 5, 0.5, True),  # 0.03125
        (4, 8, 0.1, True),  # half, and 0.005
        (3, 8, 0.01, False),  # below half, however sure
        (4, 8, 0.25, False),  # 0.114
        (0, 8, 0.0, False),
    ],
)
def test_an_answer_survives_when_it_is_known_and_no_guess(
    right: int, responses: int, guess: float, expected: bool
) -> None:
    assert leakage.survives(right, responses, guess) is expected


@pytest.mark.parametrize("wrong", [(9, 8, 0.1), (-1, 8, 0.1), (0, 0, 0.1), (1, 8, 1.1)])
def test_counts_and_chances_that_are_none_are_refused(wrong: tuple[int, int, float]) -> None:
    with pytest.raises(ValueError, match=r"right ones|must be chances"):
        leakage.survives(*wrong)


def test_who_always_says_two_gives_nothing_away() -> None:
    """Eight times right of eight at every fifth question, by a guess that knows no question from another."""
    samples = [asked(f"q{i}", str(i % 5)) for i in range(40)]
    found = leakage.screen(samples, {s.id: box(*[2] * 8) for s in samples}, exact)
    assert sum(one.right == 8 for one in found.values()) == 8
    assert not any(one.survives for one in found.values())
    assert all(found[s.id].guess > 0.99 for s in samples if s.answer == "2")


def test_what_language_gives_away_is_found_among_guesses() -> None:
    samples = [asked(f"q{i}", str(i % 5)) for i in range(40)]
    said = {s.id: box(*[2] * 8) for s in samples}
    samples.append(asked("What colour is grass", "green"))
    said["What colour is grass"] = box(*["green"] * 7, "red")
    found = leakage.screen(samples, said, exact)
    assert [name for name, one in found.items() if one.survives] == ["What colour is grass"]
    told = leakage.report(samples, found)
    assert told["t"] | {"pass_rate": 0, "guess": 0} == {
        "asked": 41, "survive": 1, "undecidable": 8, "pass_rate": 0, "guess": 0
    }  # fmt: skip
    assert found["What colour is grass"].said == "green"


def test_yes_or_no_needs_more_than_half() -> None:
    samples = [asked(f"q{i}", "yes" if i % 2 else "no", "comparing") for i in range(20)]
    said = {s.id: box(*["yes"] * 4, *["no"] * 4) for s in samples}
    said["q1"] = box(*["yes"] * 8)
    found = leakage.screen(samples, said, exact)
    assert [name for name, one in found.items() if one.survives] == ["q1"]
    assert found["q3"].guess >= 0.5


def test_of_questions_that_need_their_picture_few_are_marked() -> None:
    """Blind answers drawn from one heap: the share that is marked is at most the level, for any heap."""
    rng = random.Random(7)
    marked = total = 0
    for _ in range(60):
        weights = [rng.random() ** 3 for _ in range(6)]
        samples = [asked(f"q{i}", str(rng.choices(range(6), weights)[0])) for i in range(30)]
        said = {s.id: box(*rng.choices(range(6), weights, k=8)) for s in samples}
        found = leakage.screen(samples, said, exact, least=0.01)
        marked += sum(one.survives for one in found.values())
        total += len(found)
    assert marked / total <= 0.05


def test_a_question_that_is_alone_cannot_be_told_from_a_guess() -> None:
    found = leakage.screen([asked("q", "7")], {"q": box(*[7] * 8)}, exact)
    assert (found["q"].survives, found["q"].decidable, found["q"].guess) == (False, False, 1.0)


def test_small_tasks_are_taken_together_and_languages_are_not() -> None:
    samples = [asked(f"q{i}", str(i), f"task{i}") for i in range(9)]
    samples += [asked(f"z{i}", f"甲{i}", f"task{i}", language="zh") for i in range(9)]
    said = {s.id: box(*[s.answer] * 8) for s in samples}
    found = leakage.screen(samples, said, exact)
    assert all(one.survives for one in found.values())
    assert {round(one.guess, 3) for one in found.values()} == {round(1 / 9, 3)}


def test_a_response_without_a_box_is_wrong_by_the_rule_of_training() -> None:
    samples = [asked(f"q{i}", str(i)) for i in range(10)]
    found = leakage.screen(samples, {s.id: [f"It is {s.answer}."] * 8 for s in samples}, exact)
    assert all(one.right == 0 for one in found.values())


def test_only_words_are_left_of_a_question() -> None:
    sample = asked("q", "7")
    sample.messages[0].content.append(Part(type="text", text=" Now."))
    bare = leakage.blind(sample)
    assert (bare.images, [p.type for p in bare.messages[0].content]) == ([], ["text", "text"])
    assert sample.images, "the given one is as it was"


class Parrot:
    """An engine that answers the questions it has an answer for, and says 0 to all others; it must see no picture."""

    def __init__(self, known: dict[str, str]) -> None:
        self.known, self.asked = known, 0

    def generate(self, requests: Any, progress: Any = None) -> list[list[Completion]]:
        found: list[list[Completion]] = []
        for request in requests:
            assert isinstance(request, Request)
            assert not request.images
            self.asked += request.n
            text = request.messages[-1].text
            answer = next((a for words, a in self.known.items() if words in text), "0")
            found.append([completion(f"\\boxed{{{answer}}}") for _ in range(request.n)])
        return found

    def close(self) -> None:
        pass


def completion(text: str) -> Completion:
    return Completion(text=text, token_ids=[1], finish_reason="stop", log_probs=[0.0], weight_version=0)


def test_responses_are_asked_once_and_kept(tmp_path: Path) -> None:
    samples = [asked(f"q{i}", str(i)) for i in range(10)]
    engine, sampling = Parrot({"q3": "3"}), Sampling(boxed="always")
    leakage.ask(samples, engine, "m", sampling, Book(tmp_path), 8)
    said, cost = leakage.ask(samples, engine, "m", sampling, Book(tmp_path), 8)
    assert (engine.asked, cost.found) == (80, 80)
    found = leakage.screen(samples, said, exact)
    assert [name for name, one in found.items() if one.survives] == ["q3"]


def test_leaks_are_kept_out_of_the_pool_and_others_take_their_place(
    tmp_path: Path, tiny_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real stage, its engine's answers replaced: it knows the answer to one question."""
    engine = Parrot({})
    monkeypatch.setattr("open4ov.rl.pool.mixed.asked", lambda *_: (engine, "m"))

    def pooled(out: str, known: dict[str, str]) -> tuple[list[Any], dict[str, Any], list[Sample]]:
        engine.known = known
        recipe = Recipe.model_validate(
            {
                "name": "t",
                "rl": {"steps": 3, "prompts": 10, "minibatches": 1, "text_share": 0.2, "leakage": {"rollouts": 8}},
            }
        )
        root = tmp_path / out
        (root / "sft_preference").mkdir(parents=True)
        (root / "sft_preference" / "model").symlink_to(tiny_dir)
        (root / "out").mkdir()
        images = ImageStore(root / "image-store")
        inputs = {"sft_preference": root / "sft_preference"}
        rl_pool.run(StageRun(recipe, root / "out", root, inputs, images, 0, "rl_pool", Quiet()))
        figures = json.loads((root / "out" / "pool.json").read_text())
        return read(root / "out", images), figures, read_samples(root / "out" / "excluded.parquet")

    plain, figures, out = pooled("none", {})
    assert (len(plain), out) == (30, [])
    assert figures["leakage"]["reasoning"]["asked"] == 24
    texts = [task.sample.messages[0].text for task in plain]
    leak = next(t.sample for t in plain if t.images and "cost" in (text := t.sample.messages[0].text)
                and texts.count(text) == 1)  # fmt: skip
    words = leak.messages[0].text.split(" The final")[0]
    made, figures, out = pooled("one", {words: leak.answer or ""})
    assert [sample.id for sample in out] == [leak.id]
    assert out[0].extra["rejected_by"] == "leakage"
    assert out[0].extra["leakage"]["pass_rate"] == 1
    assert "8 of 8 answers without the picture are right" in out[0].extra["reason"]
    assert len(made) == 30
    assert leak.id not in {task.sample.id for task in made}
    assert figures["leakage"]["reasoning"]["survive"] == 1
    assert figures["by"]["pictures"]["image"]["count"] == 24, "another took its place"
