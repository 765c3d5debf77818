"""What samples can be searched for, in a temporary file that the system keeps in memory as far as there is room.

The text of 50,000 samples is some 100 MB; words are found in all of it in a fraction of a second, and this process need
not hold it.
"""

# pyarrow carries no types:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingTypeStubs=false, reportAttributeAccessIssue=false
from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from itertools import islice

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.ipc as ipc

_SCHEMA = pa.schema([pa.field("text", pa.large_string())])
_BATCH = 1024


class Texts:
    """Texts by number. The file has no name any more once this is made, and goes with the process."""

    def __init__(self, texts: Iterable[str]) -> None:
        source = iter(texts)
        with tempfile.NamedTemporaryFile(prefix="open4ov-") as file:
            with ipc.new_file(file, _SCHEMA) as writer:
                while batch := list(islice(source, _BATCH)):
                    writer.write_batch(pa.record_batch([pa.array(batch, pa.large_string())], schema=_SCHEMA))
            file.flush()
            self._text = ipc.open_file(pa.memory_map(file.name)).read_all().column("text")

    def find(self, words: Sequence[str]) -> npt.NDArray[np.int64]:
        """The numbers of the texts that hold all the words, in order."""
        found = np.ones(len(self._text), bool)
        for word in words:
            found &= pc.match_substring(self._text, word).to_numpy(zero_copy_only=False)
        return np.flatnonzero(found)
