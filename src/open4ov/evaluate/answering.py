"""Who answers the items of an evaluation: a model in this process, or an OpenAI-compatible endpoint.

Each answer is kept as it comes (`answer_book.py`); an item whose answer is kept is not asked. An item that cannot be
asked (its picture is damaged, the endpoint refuses it) is left out and told; an endpoint that refuses everything ends
the asking, and what is there stays.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Protocol

from open4ov import machine, side_by_side, training
from open4ov.engine import Completion, Engine, Request
from open4ov.engine.quantize import load
from open4ov.errors import UserError
from open4ov.evaluate.answer_book import AnswerBook, Entry
from open4ov.evaluate.item import Fault, Item, Suite
from open4ov.mllm.ask import AnswerError, ProviderError
from open4ov.mllm.chat import ChatLine
from open4ov.mllm.crew import Crew
from open4ov.model import Processor
from open4ov.recipe_providers import ProviderSection
from open4ov.run_dir import fingerprint

MAX_BATCH = 256
"""Completions under way together, of a model in this process"""

Progress = Callable[[int, int], None]
Responses = list[tuple[str, int | None, str]]


@dataclass
class Asked:
    """What became of the items: faults by suite, and how many of them are rows that are no items; how many items were
    asked now, and had an answer already. `stopped`: why the asking ended before its end."""

    faults: dict[str, list[Fault]] = field(default_factory=dict[str, list[Fault]])
    refused: Counter[str] = field(default_factory=Counter[str])
    asked: int = 0
    kept: int = 0
    stopped: str = ""

    def add(self, other: Asked) -> None:
        for name, faults in other.faults.items():
            self.faults.setdefault(name, []).extend(faults)
        self.refused += other.refused
        self.asked += other.asked
        self.kept += other.kept
        self.stopped = self.stopped or other.stopped

    def fault(self, item: Item, reason: str) -> None:
        self.faults.setdefault(item.suite, []).append(Fault(item.place, reason))

    def ordered(self) -> None:
        """The same order, however many processes asked."""
        for faults in self.faults.values():
            faults.sort(key=lambda one: (len(one.place), one.place, one.reason))


class Answerer(Protocol):
    """`identity`: who answers, as kept answers name it."""

    identity: str

    def ask(self, suites: Sequence[Suite], book: AnswerBook, progress: Progress | None) -> Asked: ...


class Here:
    """A model in this process, on `device` (auto, cpu, cuda). On a CPU of several cores as many processes share the
    items (`side_by_side.py`).

    Raises UserError for a folder that holds no model, and a device that is not there.
    """

    def __init__(
        self, folder: Path, quantize: str | None = None, adapter: Path | None = None, device: str = "auto"
    ) -> None:
        names = ("*.safetensors", "config.json", "tokenizer.json", "*preprocessor_config.json")
        files = [path for name in names for path in folder.glob(name)]
        extra = f" {quantize}" if quantize else ""
        extra += f" with {fingerprint([adapter])[:16]}" if adapter else ""
        self.identity = f"weights {fingerprint(files)[:16]}{extra}"
        place = machine.answering(quantize, device, "--device", "--quantize")
        self._autocast = training.autocast("auto", place)
        self._load = partial(load, folder, quantize, adapter, self._autocast, place)
        self._processor = Processor.from_pretrained(folder)

    def ask(self, suites: Sequence[Suite], book: AnswerBook, progress: Progress | None) -> Asked:
        model = self._load()
        engine = Engine(model, self._processor, MAX_BATCH, autocast=self._autocast, watch=False)
        total, parts = sum(suite.count for suite in suites), side_by_side.places()

        def piece(part: int) -> Asked:
            return self._part(engine, suites, book, part, parts, progress if part == 0 else None, total)

        asked = Asked()
        for found in side_by_side.run([partial(piece, part) for part in range(parts)]):
            asked.add(found)
        asked.ordered()
        return asked

    def _part(
        self,
        engine: Engine,
        suites: Sequence[Suite],
        book: AnswerBook,
        part: int,
        parts: int,
        progress: Progress | None,
        total: int,
    ) -> Asked:
        """Every so many-th item. The engine always has about a batch of them under way."""
        asked = Asked()
        fresh = _fresh(suites, self.identity, book, asked, part, parts)
        under_way: dict[int, tuple[Item, str, dict[int, Completion]]] = {}
        more, seen, open_ = True, 0, 0
        with engine.precision():  # one context for all steps: what autocast casts it keeps so long
            while True:
                while more and open_ < MAX_BATCH:
                    item, key = next(fresh, (None, ""))
                    if item is None:
                        more = False
                        break
                    if (number := _begun(engine, item, asked)) is not None:
                        under_way[number] = item, key, {}
                        open_ += item.samples
                if not under_way:
                    return asked
                for one in engine.step():
                    if one.finish_reason is None or one.number not in under_way:
                        continue
                    item, key, found = under_way[one.number]
                    found[one.index] = engine.completion(one)
                    open_ -= 1
                    if len(found) == item.samples:
                        del under_way[one.number]
                        said = [found[index] for index in sorted(found)]
                        responses: Responses = [(c.text, len(c.token_ids), c.finish_reason) for c in said]
                        book.add(Entry.of(item, key, self.identity, responses))
                        asked.asked += 1
                seen_now = asked.asked + asked.kept + sum(map(len, asked.faults.values()))
                if progress is not None and seen_now > seen:
                    seen = seen_now
                    progress(min(seen * parts, total), total)


def _begun(engine: Engine, item: Item, asked: Asked) -> int | None:
    """The number of the item's request; None where it cannot be asked, which is told."""
    try:
        images = [picture.image for picture in item.images]
        request = Request(
            list(item.messages),
            images,
            max_tokens=min(item.max_tokens, engine.longest),
            temperature=item.temperature,
            n=item.samples,
            seed=item.seed,
        )
        try:
            prompt = engine.prompt(request)
        except UserError:  # the response may be as long as the model's context leaves room for
            read = len(engine.processor.encode(request.messages, images, generate=True, pixels=False))
            room = engine.longest - read
            if not 0 < room < request.max_tokens:
                raise
            prompt = engine.prompt(replace(request, max_tokens=room))
        return engine.begin(prompt)
    except UserError as error:
        asked.fault(item, str(error))
        return None


def _fresh(
    suites: Sequence[Suite], identity: str, book: AnswerBook, asked: Asked, part: int = 0, parts: int = 1
) -> Iterator[tuple[Item, str]]:
    """The items without a kept answer, with their keys. What is asked in the same words about the same pictures is
    asked once."""
    number, begun = 0, set[str]()
    for suite in suites:
        for item in suite.items():
            number += 1
            if number % parts != part:
                continue
            if isinstance(item, Fault):
                asked.faults.setdefault(suite.name, []).append(item)
                asked.refused[suite.name] += 1
                continue
            key = item.key(identity)
            if key in book or key in begun:
                asked.kept += 1
            else:
                begun.add(key)
                yield item, key


class Endpoint:
    """A model behind an address that ends in /v1. At most `settings.concurrency` questions are open at once.

    Raises `ProviderError` without a key in the environment.
    """

    def __init__(self, settings: ProviderSection) -> None:
        self._line = ChatLine(settings, "the endpoint")
        self.identity = f"{settings.model} at {settings.cache_as or settings.base_url}"

    def ask(self, suites: Sequence[Suite], book: AnswerBook, progress: Progress | None) -> Asked:
        asked, total = Asked(), sum(suite.count for suite in suites)
        crew: Crew[tuple[Item, str], None] = Crew(partial(self._one, book), self._line.threads)
        waiting: deque[tuple[Item, Callable[[], None]]] = deque()

        def take() -> None:
            item, result = waiting.popleft()
            try:
                result()
                asked.asked += 1
            except ProviderError as error:
                asked.stopped = asked.stopped or str(error)
            except UserError as error:  # of this item alone: no answer, or a picture that cannot be read
                asked.fault(item, str(error))
            if progress is not None:
                progress(min(asked.asked + asked.kept, total), total)

        try:
            for item, key in _fresh(suites, self.identity, book, asked):
                if asked.stopped:
                    continue  # what is left is counted, not asked
                waiting.append((item, crew.submit((item, key))))
                if len(waiting) >= 2 * self._line.threads:
                    take()
            while waiting:
                take()
        except BaseException:  # Ctrl-C: answers under way are left behind
            crew.end(0.0)
            raise
        crew.end()
        asked.ordered()
        return asked

    def _one(self, book: AnswerBook, question: tuple[Item, str]) -> None:
        item, key = question
        responses: Responses = []
        for number in range(item.samples):
            seed = item.seed + number if item.temperature else None
            said = self._line.say(item.messages, item.images, item.max_tokens, item.temperature, seed)
            responses.append((said.text, said.tokens, said.finish))
        book.add(Entry.of(item, key, self.identity, responses))


__all__ = ["AnswerError", "Answerer", "Asked", "Endpoint", "Here", "Progress"]
