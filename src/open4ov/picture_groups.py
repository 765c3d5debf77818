"""Samples that hang together by their pictures: what is held out of a training must share no picture with it.

A sample hangs together with every other that has one of its pictures, and with those that these hang together with.
"""

from __future__ import annotations

from collections.abc import Iterable

from open4ov.sample import Sample


def names(sample: Sample) -> list[str]:
    """What a sample is held apart by: its pictures, or its id where it has none."""
    return sample.images or [sample.id]


class PictureGroups:
    """Gives each group a name: the smallest of its pictures, whatever the order of the samples. Only samples of several
    pictures take memory."""

    def __init__(self, samples: Iterable[Sample] = ()) -> None:
        self._leader: dict[str, str] = {}
        for sample in samples:
            self.add(sample)

    def add(self, sample: Sample) -> None:
        first, *others = names(sample)
        for other in others:
            a, b = sorted((self._root(first), self._root(other)))
            if a != b:
                self._leader[b] = a

    def of(self, sample: Sample) -> str:
        """The name of a sample's group, once all samples have been added."""
        return self._root(names(sample)[0])

    def _root(self, name: str) -> str:
        found = name
        while (above := self._leader.get(found, found)) != found:
            found = above
        while (above := self._leader.get(name, name)) != found:
            self._leader[name], name = found, above
        return found
