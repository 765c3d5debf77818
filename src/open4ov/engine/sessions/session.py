"""Sessions: a conversation that is computed while it is still being said (paper §5.2).

Whatever is appended, the part of the prompt that can no longer change (`turn.settled`) is computed ahead and held, text
in whole blocks and a picture at once: it is encoded while the question is typed or spoken. To commit is an ordinary
request for the whole conversation, which finds those blocks: it answers what a one-shot request answers, by
construction. The answer joins the conversation, and the next turn begins.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image

from open4ov.engine.request import Request
from open4ov.engine.service import Busy, Failed, Service, Update
from open4ov.engine.serving.faults import Refused
from open4ov.engine.sessions.events import Open
from open4ov.engine.sessions.turn import Turn, common, settled
from open4ov.engine.stage_error import StageError
from open4ov.errors import UserError
from open4ov.sample import Message, assistant

PAUSE = 0.03
"""Seconds that new words wait before they are computed: with a question that is committed at once, all is one step."""


@dataclass(frozen=True)
class Limits:
    """`sessions` open at once, of one key `per_key`; `images` and `characters` of a session's conversation;
    `picture_bytes` of all sessions' pictures together, which keys share as `Room` has it; `idle` seconds without a
    message, after which a session is closed."""

    sessions: int = 64
    per_key: int = 32
    images: int = 16
    characters: int = 100_000
    picture_bytes: int = 2**30
    idle: float = 300.0


class Session:
    """One conversation. `asked` and `options`: how answers are sampled, as the client said it and as the engine takes
    it, the latter with the conversation so far. Its methods raise Refused, and then nothing has changed."""

    def __init__(self, service: Service, owner: str, options: Request, asked: Open, limits: Limits) -> None:
        self.id, self.owner = f"sess-{secrets.token_urlsafe(24)}", owner
        self.service, self.options, self.asked, self.limits = service, options, asked.model_copy(), limits
        self.asked.messages = []  # pictures among them; they are in `options`
        self.wanted = asked.max_completion_tokens or asked.max_tokens
        self.messages: list[Message] = list(options.messages)
        self.images: list[Image.Image] = list(options.images)
        self.turn = Turn(first=len(self.images))
        self.turns = 0
        self.answering = False
        self.closed = ""
        """Why it is closed"""
        self.touched = asyncio.get_running_loop().time()
        self._lock = asyncio.Lock()
        self._prompt = 0
        self._wanted: list[int] = []
        """The tokens that are to be held, of those that are settled"""
        self._coming: list[int] = []
        """Those that are being computed"""
        self._held: list[int] = []
        self._number = -1
        """The request by which those are held"""
        self._hold: AsyncGenerator[Update] | None = None
        self._work: asyncio.Task[None] | None = None
        self._paused = False

    @property
    def picture_bytes(self) -> int:
        return sum(map(bytes_of, self.images))

    def state(self) -> dict[str, Any]:
        """What a client may know. Computed ahead are `ahead.computed` of the `ahead.settled` tokens; none when others
        have needed the blocks."""
        held = self._held if self.service.holds(self._number) else []
        return {
            "id": self.id,
            "object": "session",
            "turn": self.turns,
            "text": self.turn.text,
            "images": len(self.turn.pictures),
            "prompt_tokens": self._prompt,
            "ahead": {"settled": len(self._wanted), "computed": common(held, self._wanted)},
            "answering": self.answering,
        }

    async def begin(self) -> None:
        """Looks at the conversation so far, and computes it."""
        async with self._lock:
            await self._become(self.messages, self.turn, self.images)

    async def append_image(self, image: Image.Image) -> None:
        """A picture after all that is there: it is encoded at once."""
        if len(self.images) >= self.limits.images:
            raise Refused(f"at most {self.limits.images} images in a session", "url")
        await self._change(Turn.with_picture, image)

    async def append_text(self, text: str) -> None:
        """More of the transcript, cut anywhere between characters."""
        await self._change(lambda turn: turn.appended(text))

    async def revise(self, text: str) -> None:
        """The turn's whole transcript as it is understood now. What was computed of other words is dropped."""
        await self._change(lambda turn: turn.revised(text))

    async def commit(self) -> Request:
        """The request that answers; `answered` or `give_up` must follow. Waits for what is being computed ahead, which
        the answer needs in any case."""
        async with self._lock:
            self._check()
            if not self.turn.text and not self.turn.pictures:
                raise Refused("there is nothing to answer: append text or an image first")
            self.answering = True
        try:
            if self._work is not None:
                if self._paused:  # what would be computed ahead is a part of what is computed now
                    self._work.cancel()
                await asyncio.wait([self._work])
        except BaseException:
            self.give_up()
            raise
        if self.closed:
            raise gone(self.closed)
        return self._request(self.wanted or self.service.engine.longest - self._prompt)

    async def answered(self, text: str) -> None:
        """The answer joins the conversation, and a new turn begins."""
        messages = [*self.messages, self.turn.message(), assistant(text)]
        try:
            async with self._lock:
                await self._become(messages, Turn(first=len(self.images)), self.images)
                self.turns += 1
        finally:
            self.give_up()

    def give_up(self) -> None:
        """No answer, or no more of it: the turn goes on."""
        self.answering = False
        self.touched = asyncio.get_running_loop().time()

    async def close(self, why: str) -> None:
        """Gives back all that is held; whatever is asked of the session from now on is refused, saying why."""
        if self.closed:
            return
        self.closed = why
        if self._work is not None:
            self._work.cancel()
            await asyncio.wait([self._work])
        await self._release()
        self.images, self.messages, self.turn = [], [], Turn()

    async def _change(self, change: Callable[[Turn], Turn], image: Image.Image | None = None) -> None:
        async with self._lock:
            self._check()
            self.touched = asyncio.get_running_loop().time()
            turn = change(self.turn)
            said = sum(len(message.text) for message in self.messages) + len(turn.text)
            if said > self.limits.characters:
                raise Refused(f"a session's text may have at most {self.limits.characters} characters", "text")
            images = [*self.images, image] if image else self.images
            await self._become(self.messages, turn, images, pause=image is None)

    def _check(self) -> None:
        if self.closed:
            raise gone(self.closed)
        if self.answering:
            raise under_way()

    async def _become(
        self, messages: list[Message], turn: Turn, images: list[Image.Image], pause: bool = False
    ) -> None:
        """Takes over a conversation that there is room for, and computes ahead what is settled of it, after a `pause`
        or at once."""
        processor, room = self.service.engine.processor, self.service.engine.longest
        tokens, known = await asyncio.to_thread(settled, processor, messages, turn, images)
        if self.closed:
            raise gone(self.closed)
        if len(tokens) + (self.wanted or 1) > room:
            asked = f" and {self.wanted} of a response" if self.wanted else ""
            raise Refused(f"{len(tokens)} tokens of a prompt{asked} are more than the {room} there is room for")
        self.messages, self.turn, self.images = messages, turn, images
        # text in whole blocks, a picture at once
        size, places = self.service.engine.pool.size, range(known, 0, -1)
        shown = next((end for end in places if tokens[end - 1] == processor.image_id), 0)
        self._prompt, self._wanted = len(tokens), tokens[: max(known // size * size, shown)]
        if self._work is not None and not self._work.done():
            if pause if self._paused else self._wanted[: len(self._coming)] == self._coming:
                return  # it goes on from there
            self._work.cancel()
        self._work = asyncio.create_task(self._compute(pause))

    async def _compute(self, pause: bool) -> None:
        """Computes what is wanted until that is held; nothing when the queue is full (the next change tries again)."""
        if pause:
            self._paused = True
            try:
                await asyncio.sleep(PAUSE)
            finally:
                self._paused = False
        while self._wanted != self._held:
            self._coming = self._wanted
            lost = len(self._held) - common(self._held, self._coming)
            if not self._coming:
                self.service.metrics.session_rolled_back_tokens += lost
                await self._release()
                continue
            request = replace(self._request(1), ahead=len(self._coming), grammar=None, degeneration=None)
            updates = self.service.submit(request)
            try:
                update = await anext(updates)
            except (Busy, Failed, UserError, StageError):
                return
            await self._release()  # only now: the new one shares its blocks
            self._hold, self._held, self._number = updates, self._coming, update.number
            self.service.metrics.session_rolled_back_tokens += lost
            self.service.metrics.session_ahead_tokens += update.prompt_tokens - update.found_tokens

    async def _release(self) -> None:
        hold, self._hold, self._held = self._hold, None, []
        if hold is not None:
            await hold.aclose()

    def _request(self, max_tokens: int) -> Request:
        messages = [*self.messages, self.turn.message()]
        return replace(self.options, messages=messages, images=list(self.images), max_tokens=max_tokens)


def bytes_of(image: Image.Image) -> int:
    """In memory, where Pillow keeps a pixel in four bytes."""
    return 4 * image.width * image.height


def gone(why: str) -> Refused:
    """What is said of a session that is closed."""
    return Refused(why, status=410, code="session_closed")


def under_way() -> Refused:
    """What is said while the answer is."""
    return Refused("the answer is under way: wait for its end, or give it up", status=409, code="answer_under_way")
