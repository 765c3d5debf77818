"""Independent pieces of work side by side: one here, the others each in a forked process with a single thread.

What PyTorch does with several threads on one small product waits for all of them many thousand times a second; so many
processes that compute something else meanwhile do not. A forked process has what this one has, pictures and features
among it, without a copy, and gives its result back through a pipe. What a piece computes must not depend on where.
"""

from __future__ import annotations

import ctypes
import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NoReturn, TypeVar

import torch

from open4ov.errors import UserError

T = TypeVar("T")
MOST = 4
"""Processes: each has its own working memory"""
_DIES_WITH_PARENT = 1  # PR_SET_PDEATHSIG


def places() -> int:
    """How many pieces run at once: as many as PyTorch has threads here (the recipe's `threads`). 1 where these are more
    than `MOST`, and a large model has better use of them than processes of one thread each; where processes cannot be
    forked; and where a CUDA card is in use, which does not survive it."""
    threads = torch.get_num_threads()
    return threads if threads <= MOST and sys.platform == "linux" and not torch.cuda.is_initialized() else 1


def run(pieces: Sequence[Callable[[], T]]) -> list[T]:
    """The results of all pieces, in order. With one place they are done here, one after the other; else the first one
    is done here, and all have one thread. Raises what a piece raises; of several the first one's."""
    threads = torch.get_num_threads()
    if len(pieces) < 2 or places() == 1:
        return [piece() for piece in pieces]
    assert len(pieces) <= MOST, f"{len(pieces)} pieces at once"
    children: list[tuple[int, int]] = []
    try:
        torch.set_num_threads(1)
        for piece in pieces[1:]:
            children.append(_fork(piece))  # each at once: where a later one fails, this one is ended, too
        own = pieces[0]()
        return [own, *(_result(pipe) for _, pipe in children)]
    finally:
        torch.set_num_threads(threads)
        for child, pipe in children:
            os.close(pipe)
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)  # it has said all, or nobody is interested any more
            os.waitpid(child, 0)


def _fork(piece: Callable[[], T]) -> tuple[int, int]:
    """A process that does the piece, and the pipe that its result comes from."""
    reading, writing = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    parent = os.getpid()
    try:
        child = os.fork()
    except BaseException:
        os.close(reading)
        os.close(writing)
        raise
    if child:
        os.close(writing)
        return child, reading
    os.close(reading)
    _work(piece, writing, parent)


def _work(piece: Callable[[], T], writing: int, parent: int) -> NoReturn:
    """In the forked process: neither Ctrl-C nor cleaning up is its business."""
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        ctypes.CDLL(None).prctl(_DIES_WITH_PARENT, signal.SIGKILL)
        if os.getppid() != parent:  # it has died before it was said
            os._exit(1)
        os.environ["TOKENIZERS_PARALLELISM"] = "false"  # its threads are not here
        threading.excepthook = lambda *_: None
        try:
            said = pickle.dumps((True, piece()), pickle.HIGHEST_PROTOCOL)
        except BaseException as error:
            said = pickle.dumps((False, _told(error)), pickle.HIGHEST_PROTOCOL)
        with os.fdopen(writing, "wb") as pipe:
            pipe.write(said)
        os._exit(0)
    finally:
        os._exit(1)


def _told(error: BaseException) -> BaseException:
    """The error, if it comes through a pipe as it is; else what it says."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _result(pipe: int) -> T:  # pyright: ignore[reportInvalidTypeVarUse]
    with os.fdopen(os.dup(pipe), "rb") as file:
        said = file.read()
    if not said:
        raise UserError("a process that worked beside this one was ended, perhaps for want of memory; the same command "
                        "goes on; with `threads: 1` all is done in one process")  # fmt: skip
    well, value = pickle.loads(said)
    if not well:
        raise value
    return value
