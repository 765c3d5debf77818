"""`open4ov run` as a process that does not outlive the command that started it: `python -m open4ov.ablate.child ...`.

A killed `open4ov ablate` would else leave trainings behind, which hold the run directories that its next start needs.
A run that is killed with it goes on from its last checkpoint.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from contextlib import suppress

PARENT = "OPEN4OV_ABLATE_PARENT"
"""The environment variable with the parent's process id"""
_DIES_WITH_PARENT = 1  # PR_SET_PDEATHSIG of Linux


def main() -> None:
    """Takes the arguments of `open4ov`."""
    with suppress(OSError, AttributeError):  # on another system the run goes on, and holds its folder until it ends
        ctypes.CDLL(None).prctl(_DIES_WITH_PARENT, signal.SIGKILL)
    if os.environ.get(PARENT, str(os.getppid())) != str(os.getppid()):  # it has died before it was said
        sys.exit(1)
    from open4ov.cli import main as run

    run()


if __name__ == "__main__":
    main()
