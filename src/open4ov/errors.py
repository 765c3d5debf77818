"""What the user can mend, told apart from what is a fault of ours."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Something the user can mend: the message says what, where, and what to do. The CLI prints it and exits with 2.

    `final`: the same command would end in the same way, unless something is mended first.
    """

    final: bool = True


class RefusedError(UserError):
    """What a stage made is of no use to those after it, and says itself why: it is kept aside for the user to look at.

    Not `final`: the next start begins anew, and asks again what got no answer.
    """

    def __init__(self, message: str, *, final: bool = True) -> None:
        super().__init__(message)
        self.final = final


def nearby(name: str, known: Iterable[str]) -> str | None:
    """The known name that is nearest to a misspelt one; None when none is near."""
    close = difflib.get_close_matches(name, sorted(set(known)), n=1, cutoff=0.6)
    return close[0] if close else None


def nearest(name: str, known: Iterable[str]) -> str:
    """`"; did you mean 'x'?"` for the nearest known name, or the list of known names when none is near."""
    names = sorted(set(known))
    if close := nearby(name, names):
        return f"; did you mean '{close}'?"
    return f"; known: {', '.join(names)}" if names else ""
