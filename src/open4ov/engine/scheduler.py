"""What the next step computes: one token for every sequence that decodes, and pieces of prompts up to a budget.

Sequences that run come first, in the order in which they came; then those that wait, as long as there are rows, tokens
and blocks. When blocks run out, the youngest gives its own back and waits again: what it has sampled stays, what it had
computed is found again or computed once more. Before that, what is held for requests still to come is given up.
"""

from __future__ import annotations

from collections import Counter, deque

from open4ov.engine.blocks import BlockPool, Key
from open4ov.engine.sequence import Chunk, Sequence

LOOK_AHEAD = 64
"""So many waiting sequences are looked at for one that can start now."""


class Scheduler:
    """At most `rows` sequences at a time and `step_tokens` tokens a step (`rows` if that is more)."""

    def __init__(self, pool: BlockPool, rows: int, step_tokens: int) -> None:
        self.pool, self.rows, self.step_tokens = pool, rows, max(rows, step_tokens)
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self.root: Key = b""
        self.copies: list[tuple[int, int]] = []
        """Blocks whose content the next step must copy first: (from, to)"""
        self.held: dict[int, Sequence] = {}
        """Computed ahead, by request: their blocks stay theirs until the request comes, or until others need them"""
        self.ready: list[Sequence] = []
        """Those of `held` that are new since somebody took the list"""
        self.preempted = 0
        self.lost_tokens = 0
        """Tokens that were held and given up for want of blocks"""
        self.prompt_tokens = self.found_tokens = 0
        """Of the prompts begun: their tokens, and those whose keys and values were found"""
        self._coming: Counter[Key] = Counter()
        """Ends of prompts that are being computed: an equal prompt waits and then finds them"""

    def plan(self) -> list[Chunk]:
        """The next step's work; blocks for all of it are taken. Empty when there is nothing to do."""
        budget, chunks = self.step_tokens, list[Chunk]()
        for sequence in list(self.running):
            if sequence not in self.running:  # given up for an older one
                continue
            count = min(sequence.remaining, budget)
            if count and self._make_room(sequence, sequence.computed + count):
                budget -= count
                chunks.append(Chunk(sequence, count))
        # several are started together, as small pieces cost as much as large ones: while more wait than there are rows
        # for, a few rows are not enough
        free = self.rows - len(self.running)
        crowded = 4 * free < self.rows and len(self.waiting) > free
        for sequence in [] if crowded else list(self.waiting)[:LOOK_AHEAD]:
            if not budget or len(self.running) >= self.rows:
                break
            if self._coming[self.end(sequence)] and not sequence.request.prompt_log_probs:
                continue
            if not self._start(sequence):
                break
            count = min(sequence.remaining, budget)
            if not count:  # all of what was to be computed ahead is there
                self._hold(sequence)
                continue
            while len(sequence.blocks) < self.pool.blocks_for(sequence.computed + count):
                sequence.blocks.append(self.pool.take())
            budget -= count
            chunks.append(Chunk(sequence, count))
        return chunks

    def forget(self, root: Key) -> None:
        """Nothing that is held is of use any more: all begin anew, and names begin at `root`."""
        for sequence in reversed(self.running[:]):
            self.preempt(sequence)
        for sequence in list(self.held.values()):
            self.remove(sequence)
        for sequence in self.waiting:
            sequence.keys = []
        self.pool.forget()
        self.root = root

    def computed(self, chunk: Chunk) -> None:
        """A chunk has been computed: its blocks can be found by others."""
        sequence, size = chunk.sequence, self.pool.size
        start, sequence.computed = sequence.computed, sequence.computed + chunk.count
        if sequence.computed // size > start // size:
            sequence.name_blocks(self.root, size)
            for place in range(start // size, sequence.computed // size):
                self.pool.name(sequence.blocks[place], sequence.keys[place])
        prompt = len(sequence.prompt.token_ids)
        if start < prompt <= sequence.computed:
            self.pool.name(sequence.blocks[(prompt - 1) // size], self.end(sequence))
            self._arrived(sequence)
        if sequence.ahead and not sequence.remaining:
            self._hold(sequence)

    def take_ready(self) -> list[Sequence]:
        """What has been computed ahead since the last call."""
        ready, self.ready = self.ready, []
        return ready

    def remove(self, sequence: Sequence) -> None:
        """A sequence is finished or given up: its blocks are free."""
        if sequence in self.running:
            self.running.remove(sequence)
            self._give_back(sequence)
        elif sequence.number in self.held:
            del self.held[sequence.number]
            self._give_back(sequence)
        else:
            self.waiting.remove(sequence)

    def end(self, sequence: Sequence, tokens: int | None = None) -> Key:
        """The name of the last of so many tokens (None: the prompt's), in a block that may hold more."""
        size, tokens = self.pool.size, tokens or len(sequence.prompt.token_ids)
        sequence.name_blocks(self.root, size)
        return b"end" + sequence.key_of(self.root, (tokens - 1) // size * size, tokens, size)

    def _start(self, sequence: Sequence) -> bool:
        """Lets a waiting sequence run if there is room for all of it; shares what is computed already."""
        pool, size = self.pool, self.pool.size
        # the last token is computed in any case where the next one is sampled from it
        most = len(sequence.tokens) - (not sequence.ahead)
        sequence.name_blocks(self.root, size)
        scored = sequence.request.prompt_log_probs  # then every token has to be computed
        for key in [] if scored else sequence.keys[: most // size]:
            block = pool.share(key)
            if block is None:
                break
            sequence.blocks.append(block)
        sequence.computed = len(sequence.blocks) * size
        missing = pool.blocks_for(len(sequence.tokens) + 1) - len(sequence.blocks)
        while missing + len(self.running) > pool.available and self._lose():
            pass
        if missing + len(self.running) > pool.available and self.running:
            pool.release(sequence.blocks)
            sequence.blocks, sequence.computed = [], 0
            return False
        if not scored:
            self._copy_end(sequence, most)
        self.prompt_tokens += len(sequence.tokens)
        self.found_tokens += sequence.computed
        if sequence.found is None:
            sequence.found = sequence.computed
        self.waiting.remove(sequence)
        self.running.append(sequence)
        if sequence.computed < len(sequence.prompt.token_ids) - 1:
            sequence.awaited = True
            self._coming[self.end(sequence)] += 1
        return True

    def _copy_end(self, sequence: Sequence, most: int) -> None:
        """The end of an equal prompt, or of one that this one goes on from, shares a block with what comes after it:
        that block is copied."""
        start = sequence.computed
        last = min(len(sequence.prompt.token_ids), start + self.pool.size)
        for end in range(last, start, -1) if start < most else ():
            block = self.pool.share(self.end(sequence, end))
            if block is None:
                continue
            if self.pool.available:  # else the very block is needed, as the last one
                own = self.pool.take()
                self.copies.append((block, own))
                sequence.blocks.append(own)
                sequence.computed = min(end, most)
            self.pool.release([block])
            return

    def _make_room(self, sequence: Sequence, tokens: int) -> bool:
        """Takes the blocks that `tokens` need, if need be from younger sequences; False when it gave itself up."""
        while len(sequence.blocks) < self.pool.blocks_for(tokens):
            if self.pool.available:
                sequence.blocks.append(self.pool.take())
            elif not self._lose():
                youngest = self.running[-1]
                self.preempt(youngest)
                if youngest is sequence:
                    return False
        return True

    def preempt(self, sequence: Sequence) -> None:
        """A running sequence waits again; its blocks are free."""
        self.preempted += 1
        self.running.remove(sequence)
        self._give_back(sequence)
        self.waiting.appendleft(sequence)

    def _hold(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        sequence.features = None  # what is held may be held for long: blocks, not features
        self.held[sequence.number] = sequence
        self.ready.append(sequence)

    def _lose(self) -> bool:
        """Gives up what has been held for longest; False when nothing is."""
        if not self.held:
            return False
        longest = next(iter(self.held.values()))
        self.lost_tokens += longest.computed
        self.remove(longest)
        return True

    def _give_back(self, sequence: Sequence) -> None:
        self._arrived(sequence)
        self.pool.release(sequence.blocks)
        sequence.blocks, sequence.computed, sequence.features = [], 0, None

    def _arrived(self, sequence: Sequence) -> None:
        if not sequence.awaited:
            return
        sequence.awaited = False
        end = self.end(sequence)
        self._coming[end] -= 1
        if self._coming[end] <= 0:
            del self._coming[end]
