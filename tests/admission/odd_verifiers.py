"""Verifiers as users may have written them: they raise, hang, die, print, or say something else than yes or no."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Sequence


def by_response(response: str, answer: str, aliases: Sequence[str]) -> object:
    """Does what the response says."""
    if response == "raise":
        raise KeyError("no such unit")
    if response == "hang":
        while True:
            pass
    if response == "hang in C":
        return re.fullmatch("(a+)+b", "a" * 60) is not None
    if response == "hang deaf":
        signal.signal(signal.SIGALRM, signal.SIG_IGN)
        time.sleep(60)
    if response == "die":
        os._exit(3)
    if response == "print":
        print("looking closely", flush=True)
        return True
    if response == "maybe":
        return 0.5
    if response == "none":
        return None
    if response == "one":
        return 1
    return response == answer or response in aliases


def hangs(response: str, answer: str, aliases: Sequence[str]) -> bool:
    while True:
        pass


def broken(response: str, answer: str) -> bool:
    return response == answer


def counted(response: str, answer: str, aliases: Sequence[str]) -> bool:
    """Leaves a line in a file for each call."""
    with open(os.environ["COUNTED"], "a") as file:
        file.write(f"{response}\n")
    return answer in response


def by_word(response: str, answer: str, aliases: Sequence[str]) -> bool:
    """Stumbles over one answer."""
    if answer == "green":
        raise KeyError(answer)
    return response == answer


def no(response: str, answer: str, aliases: Sequence[str]) -> str:
    return "no"
