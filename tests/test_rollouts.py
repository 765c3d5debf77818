"""Rollouts: the same whatever is beside them, asked once, kept whole; and what cannot be asked is told."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from open4ov import rollouts
from open4ov.engine import Completion, Engine, Request
from open4ov.errors import UserError
from open4ov.model import Processor, Qwen3VL
from open4ov.rollout_book import NAME, Asking, Book, Cost, Rollout, rule_key
from open4ov.rollouts import Sampling, boxed_prompt, digest, question, roll, unaskable
from open4ov.sample import Message, Sample, assistant, user
from open4ov.store import ImageStore

SAMPLING = Sampling(max_tokens=6, seed=3)


def sample(name: str, asked: str = "What?", said: str = "red", answer: str | None = "red", **fields: object) -> Sample:
    images: list[str] = fields.pop("images", [])  # pyright: ignore[reportAssignmentType]
    messages = [user(asked, images=len(images)), assistant(said)]
    return Sample(id=name, source="test", task="t", messages=messages, answer=answer, images=images, **fields)  # pyright: ignore[reportArgumentType]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ImageStore:
    return ImageStore(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def seen(store: ImageStore) -> list[Sample]:
    """Eight questions, six about two pictures."""
    pictures = [store.put(Image.new("RGB", (64, 64), colour)) for colour in ("red", "blue")]
    asked = ["What colour is the circle?", "How many squares are there?", "left or right?"]
    found = [sample(f"p{i}{j}", text, images=[sha]) for i, sha in enumerate(pictures) for j, text in enumerate(asked)]
    return [*found, sample("t0", "1 + 2 ="), sample("t1", "3 + 4 =")]


class Counting:
    """An engine, and what was asked of it."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.asked, self.calls = engine, 0, 0
        self.prompt, self.scheduler, self.vision_cache = engine.prompt, engine.scheduler, engine.vision_cache

    def generate(
        self, requests: Sequence[Request], progress: Callable[[int, int], None] | None = None
    ) -> list[list[Completion]]:
        self.asked += sum(request.n for request in requests)
        self.calls += 1
        return self.engine.generate(requests, progress)


@pytest.fixture
def counting(tiny_dir: Path) -> Counting:
    return Counting(Engine(Qwen3VL.from_pretrained(tiny_dir), Processor.from_pretrained(tiny_dir)))


def rolled(samples: Sequence[Sample], count: int, engine: Counting, store: ImageStore, book: Book, **options: int):
    counts = {s.id: count for s in samples}
    return roll(samples, counts, engine, store.get, "m", SAMPLING, book, **options)  # pyright: ignore[reportArgumentType]


def texts(found: rollouts.Rolled) -> dict[str, list[str]]:
    return {name: [one.response for one in group] for name, group in found.groups.items()}


def test_order_batches_and_how_many_are_asked_at_once_change_nothing(
    counting: Counting, store: ImageStore, seen: list[Sample]
) -> None:
    whole = texts(rolled(seen, 4, counting, store, Book()))
    assert {len(group) for group in whole.values()} == {4}
    assert len({text for group in whole.values() for text in group}) > 8, "they do differ"
    assert texts(rolled(seen[::-1], 4, counting, store, Book(), batch=3)) == whole
    assert texts(rolled(seen[2:3], 4, counting, store, Book())) == {seen[2].id: whole[seen[2].id]}
    book = Book()
    first = texts(rolled(seen, 1, counting, store, book))
    assert first == {name: group[:1] for name, group in whole.items()}
    more = rolled(seen, 4, counting, store, book)
    assert texts(more) == whole
    assert (more.cost.rollouts, more.cost.found) == (24, 8)


def test_the_engine_numbers_completions_from_first(tiny_dir: Path) -> None:
    engine = Engine(Qwen3VL.from_pretrained(tiny_dir), Processor.from_pretrained(tiny_dir))
    whole = Request([user("one")], max_tokens=5, temperature=1.0, n=5, seed=9)
    late = engine.generate([replace(whole, n=2, first=3)])[0]
    assert [c.token_ids for c in late] == [c.token_ids for c in engine.generate([whole])[0][3:]]
    with pytest.raises(ValueError, match="first must not be negative"):
        replace(whole, first=-1)


def test_nothing_is_asked_twice_and_equal_prompts_once(
    counting: Counting, store: ImageStore, seen: list[Sample], tmp_path: Path
) -> None:
    twin = seen[0].model_copy(update={"id": "twin", "aliases": ["crimson"], "source": "elsewhere"})
    book = Book(tmp_path)
    found = rolled([*seen, twin], 3, counting, store, book)
    assert counting.asked == 3 * len(seen)
    assert found.groups["twin"] == found.groups[seen[0].id]
    assert found.cost.images == 2, "each picture passed the tower once"
    assert found.cost.computed_tokens < found.cost.prompt_tokens / 2, "and a prompt is computed once for its responses"
    book.close()
    again = Book(tmp_path)
    assert rolled([*seen, twin], 3, counting, store, again).groups == found.groups
    assert counting.asked == 3 * len(seen)
    assert again.cost("m") == replace(found.cost, found=0)
    assert len(again) == 3 * len(seen)


@pytest.mark.parametrize(
    "change", [{"temperature": 0.7}, {"max_tokens": 7}, {"seed": 4}, {"top_p": 0.9}, {"boxed": "always"}]
)
def test_another_way_to_sample_is_another_key(seen: list[Sample], change: dict[str, object]) -> None:
    keys = {one.asking("m", seen[0]).key for one in (SAMPLING, replace(SAMPLING, **change))}  # pyright: ignore[reportArgumentType]
    assert len(keys) == 2
    assert SAMPLING.asking("n", seen[0]).key not in keys
    other = seen[0].model_copy(update={"images": ["f" * 64]})
    assert SAMPLING.asking("m", other).key not in keys


def test_the_digest_sees_weights_settings_and_precision(tiny_dir: Path) -> None:
    model, processor = Qwen3VL.from_pretrained(tiny_dir), Processor.from_pretrained(tiny_dir)
    before = digest(Engine(model, processor))
    assert before == digest(Engine(Qwen3VL.from_pretrained(tiny_dir), processor))
    assert before != digest(Engine(model, processor, autocast=torch.bfloat16))
    with torch.no_grad():
        next(iter(model.vision.parameters())).view(-1)[0] += 1e-3
    assert before != digest(Engine(model, processor))


def test_what_cannot_be_asked_is_told_and_the_rest_goes_on(
    counting: Counting, store: ImageStore, seen: list[Sample]
) -> None:
    lost = sample("lost", images=["0" * 64])
    long = sample("long", "why? " * 40_000)
    found = rolled([seen[0], lost, long, seen[6]], 2, counting, store, Book())
    assert set(found.groups) == {seen[0].id, seen[6].id}
    assert found.refused["lost"].startswith("picture: ")
    assert "tokens" in found.refused["long"]


def test_a_model_without_eyes_refuses_samples_with_pictures(store: ImageStore, seen: list[Sample]) -> None:
    class Blind:
        def generate(self, requests: Sequence[Request], progress: object = None) -> list[list[Completion]]:
            for place, request in enumerate(requests):
                if request.images:
                    raise UserError(f"request {place}: this model takes no pictures")
            return [[Completion("red", [1, 2], [0.0, 0.0], "stop", 0)] * request.n for request in requests]

    found = roll(seen, {s.id: 2 for s in seen}, Blind(), store.get, "m", SAMPLING, Book())
    assert set(found.groups) == {"t0", "t1"}
    assert set(found.refused.values()) == {"this model takes no pictures"}


@pytest.mark.parametrize(
    ("messages", "answer", "reason"),
    [
        ([user("q"), assistant("a")], "a", ""),
        ([Message(role="system", content=[]), user("q"), assistant("a")], "a", ""),
        ([user("q"), assistant("a")], None, "has no reference answer"),
        ([user("q"), assistant("a")], "  ", "has no reference answer"),
        ([user("q")], "a", "is not a single question with a response"),
        ([user("q"), assistant("a"), user("r"), assistant("b")], "b", "is not a single question with a response"),
        ([], "a", "has no messages"),
    ],
)
def test_samples_that_cannot_be_graded(messages: list[Message], answer: str | None, reason: str) -> None:
    assert unaskable(Sample(id="s", source="test", task="t", messages=messages, answer=answer)) == reason


@pytest.mark.parametrize(
    ("said", "answer", "asks"),
    [
        ("red", "red", False),
        ("Red.", "red", False),
        ("3+4=7. \\boxed{7}", "7", True),
        ("The circle in the middle is red.", "red", True),
    ],
)
def test_a_box_is_asked_for_where_the_own_response_could_not_be_verified_without(
    said: str, answer: str, asks: bool
) -> None:
    one = sample("s", said=said, answer=answer)
    assert ("\\boxed" in question(one)[-1].text) == asks
    assert "\\boxed" in question(one, "always")[-1].text
    assert question(one, "never") == one.messages[:1]
    assert question(one, "always") == boxed_prompt(one.messages[:1])


# ---------------------------------------------------------------------------------------------- the book


ASKING = Asking("model", "prompt", {"temperature": 1.0})


def test_a_batch_is_kept_whole_or_not_at_all() -> None:
    book = Book()
    bad = Rollout(1, object(), 2, "stop")  # pyright: ignore[reportArgumentType]
    with pytest.raises(Exception, match="type"):
        book.add([(ASKING, [Rollout(0, "a", 2, "stop"), bad])], Cost(rollouts=2))
    assert book.rollouts(ASKING.key, 9) == []
    assert book.cost("model") == Cost()
    book.add([(ASKING, [Rollout(0, "a", 2, "stop")])], Cost(rollouts=1))
    assert book.rollouts(ASKING.key, 9) == [Rollout(0, "a", 2, "stop")]


def test_what_is_there_stays_and_a_gap_ends_the_row() -> None:
    book = Book()
    book.add([(ASKING, [Rollout(0, "a", 2, "stop"), Rollout(2, "c", 2, "length")])], Cost())
    book.add([(ASKING, [Rollout(0, "other", 9, "stop")])], Cost())
    assert [one.response for one in book.rollouts(ASKING.key, 9)] == ["a"]
    book.add([(ASKING, [Rollout(1, "b", 2, "stop")])], Cost())
    assert [one.truncated for one in book.rollouts(ASKING.key, 9)] == [False, False, True]


def test_verdicts_belong_to_verifier_and_reference() -> None:
    book = Book()
    book.judged([(ASKING.key, 0, rule_key("v", "seven", ["7"]), True)])
    assert book.verdict(ASKING.key, 0, rule_key("v", "seven", ["7"])) is True
    others = [rule_key("w", "seven", ["7"]), rule_key("v", "eight", ["7"]), rule_key("v", "seven", [])]
    assert [book.verdict(ASKING.key, 0, one) for one in others] == [None] * 3


def test_a_damaged_book_is_named(tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(b"not a database" * 100)
    with pytest.raises(UserError, match=rf"{NAME}: not usable"):
        Book(tmp_path)


def _roll_until_killed(tiny: Path, folder: Path, images: Path, samples: list[Sample]) -> None:
    torch.set_num_threads(1)
    engine = Engine(Qwen3VL.from_pretrained(tiny), Processor.from_pretrained(tiny))

    def stop(done: int, _: int) -> None:
        if done >= 9:  # in the third batch of four
            os.kill(os.getpid(), signal.SIGKILL)

    counts = {s.id: 2 for s in samples}
    roll(samples, counts, engine, ImageStore(images).get, "m", SAMPLING, Book(folder), stop, batch=4)


def test_a_killed_process_loses_the_batch_under_way(
    tiny_dir: Path, counting: Counting, store: ImageStore, seen: list[Sample], tmp_path: Path
) -> None:
    child = multiprocessing.get_context("fork").Process(
        target=_roll_until_killed, args=(tiny_dir, tmp_path, store.root, seen)
    )
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    book = Book(tmp_path)
    assert len(book) == 8
    found = rolled(seen, 2, counting, store, book, batch=4)
    assert counting.asked == 8
    assert found.groups == rolled(seen, 2, counting, store, Book(), batch=4).groups
    assert book.cost("m").rollouts == 16
