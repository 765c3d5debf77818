"""What torch warns of and does not concern us, and on which ranks the rest shows."""

from __future__ import annotations

import logging
from collections.abc import Generator
from contextlib import contextmanager

REDISTRIBUTE = logging.getLogger("torch.distributed.tensor._redistribute")


def matters(record: logging.LogRecord) -> bool:
    """False for a tensor that is gathered over two axes one after the other, as experts are when weights are put
    together: torch warns that ranks may differ by the order in which they add up, but gathering adds nothing up, and
    it is done once a checkpoint, not in a pass. Of sums over several axes the warning stays."""
    arguments = record.args if isinstance(record.args, tuple) else ()
    return not (str(record.msg).startswith("While redistributing") and "all_gather" in arguments)


@contextmanager
def told(rank: int) -> Generator[None]:
    """Within the block rank 0 alone logs, and not what does not matter."""
    before = logging.root.manager.disable
    REDISTRIBUTE.addFilter(matters)
    if rank:
        logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)
        REDISTRIBUTE.removeFilter(matters)
