"""Data construction as a whole: the steps on all chunks (chunk_steps.py), and what stands between them.

Held of all images at once: the score of each (8 bytes), hashes where images are compared (108 bytes), topics, counts.
"""

from __future__ import annotations

import json
import shutil
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from open4ov.data import density, general_set, hygiene, picture_table, topics
from open4ov.data.chunk_steps import cleaned
from open4ov.data.defect_index import Index
from open4ov.data.executor import Chunk, Executor, Local
from open4ov.data.splits import Split
from open4ov.data.task import Tools
from open4ov.data.told import gather
from open4ov.data.wished import Others, Wished
from open4ov.data.working import Counts, add
from open4ov.errors import UserError
from open4ov.mllm.took import Account
from open4ov.sample import Sample
from open4ov.store import (
    count_samples,
    iter_records,
    iter_samples,
    join_samples,
    read_samples,
    write_json,
    write_samples,
)

Progress = Callable[[str, int, int], None]
UNCLEAN = ("personal_data", "near_duplicate", "decontamination")
"""Why hygiene takes samples out, in the order in which rejected.parquet has them"""
_DEFECTS = 4096  # known defects judged as one chunk


class Construction:
    """One run of the stage. `out`: where its files go."""

    def __init__(
        self, tools: Tools, out: Path, progress: Progress | None = None, executor: Executor | None = None
    ) -> None:
        self.tools, self.work, self.section, self.out = tools, tools.work, tools.section, out
        self._executor, self._tell = executor or Local(tools), _teller(progress)
        self.total = count_samples(tools.task.source)
        self.chunks = max(1, -(-self.total // self.section.chunk))
        self.clean = tools.hygiene()
        self.fallen: dict[str, Iterable[dict[str, str]]] = {}
        self.account = Account()
        self.missed: Counts = {}
        self.wished = Wished(tools.wishes, tools.section, self.work) if tools.wishes else None
        self.pairs: int | None = None
        """The pairs that the images left can have of `total_pairs`"""

    def run(self) -> dict[str, Any]:
        """The report; samples, rejected samples, topics and the general set lie in `out` then."""
        self.out.mkdir(parents=True, exist_ok=True)
        self._general()
        self._count_groups()
        self._check_total()
        self._match()
        if self.section.match_general and not self.tools.task.drawn:
            self.tools.tell = self._tell
            self.ranked = general_set.rank(self.tools, self.general)
        barren = self._topics()
        self.general_labels = self._label_general()
        self._write()
        judged = self._judge()
        for facts in self.work.every("write", self.chunks):
            self.clean.merge(facts["hygiene"])
        self._samples(judged)
        return gather(self, judged, barren)

    def _run(self, step: str, chunks: Sequence[Chunk]) -> None:
        self._executor.run(step, chunks, self._tell)

    def _match(self) -> None:
        """Hygiene of images, then labels and density."""
        size = self.section.chunk
        sizes = [max(0, min(size, self.total - number * size)) for number in range(self.chunks)]
        gone: list[list[int]] = [[] for _ in sizes]
        if self.clean.compares:
            self._run("clean", [Chunk(number, size) for number, size in enumerate(sizes)])
            gone = self._compare()
        self._run("match", [Chunk(n, size, {"gone": gone[n]}) for n, size in enumerate(sizes)])
        if not self.clean.compares:
            self._merge_clean()

    def _general(self) -> None:
        """Hygiene of the general set, which is held whole (as training does)."""
        task = self.tools.task
        self.general: list[Sample] = []
        self.ranked = 0
        """Chunks of the general set that were ranked"""
        self.came = 0
        """Samples of it that came with labels"""
        if task.general is None:
            return
        label = task.drawn or self.section.match_general
        if not (self.clean.asked or label):
            shutil.copyfile(task.general, self.out / "general.parquet")
            return
        self.general = read_samples(task.general)
        if self.clean.asked:
            self.general, unfit = self.clean.general(self.general, drawn=task.drawn)
            if unfit and not self.general:
                raise UserError(
                    f"data.hygiene: all {len(unfit)} samples of the general set fall out, the first one since "
                    f"{unfit[0].extra['reason']}; give another images.general, or set images.general_count to 0"
                )
            write_samples(self.out / "general_rejected.parquet", unfit)
        self.came = sum(bool(sample.labels) for sample in self.general)
        if task.drawn:
            self.general = general_set.drawn(self.tools, self.general)
        write_samples(self.out / "general.parquet", self.general)

    def _label_general(self) -> dict[str, Any] | None:
        """The general set under its topics, and the report's part on its labels."""
        task, unranked = self.tools.task, 0
        if task.general is None or not (task.drawn or self.section.match_general):
            return None
        if not task.drawn:
            self.general = general_set.matched(self.tools, self.general, self.ranked)
            write_samples(self.out / "general.parquet", self.general)
            unranked = sum(facts["unranked"] for facts in self.work.every(general_set.STEP, self.ranked))
        return general_set.figures(self.general, self.came, unranked)

    def _count_groups(self) -> None:
        """Before anything is paid for: a key that no image has would leave the split without groups."""
        if self.section.hygiene.groups:
            general = [] if self.tools.task.drawn else self.general
            self.clean.count_groups(chain(iter_samples(self.tools.task.source), general))

    def _check_total(self) -> None:
        """Before anything is paid for: a total that not even all images could have."""
        section, total = self.section, self.section.total_pairs
        if total is not None:
            asked_about = sum(not image.messages for image in iter_samples(self.tools.task.source))
            density.check_total(asked_about, section.min_pairs, section.max_pairs, total)

    def _merge_clean(self) -> None:
        for facts in self.work.every("clean", self.chunks):
            self.clean.merge(facts["hygiene"])

    def _compare(self) -> list[list[int]]:
        """By chunk the places of images that go since they are elsewhere too."""
        self._merge_clean()
        ends = np.cumsum([facts["images"] for facts in self.work.every("clean", self.chunks)])
        starts = [0, *ends[:-1].tolist()]
        parts = [picture_table.read(self.work.path("clean", n, "pictures", "npz")) for n in range(self.chunks)]
        rows = [0, *np.cumsum([len(part.shas) for part in parts])[:-1].tolist()]
        evidence = {
            row + at: hits
            for row, facts in zip(rows, self.work.every("clean", self.chunks), strict=True)
            for at, hits in facts["evidence"]
        }

        def place(at: int) -> tuple[int, int]:
            number = int(np.searchsorted(ends, at, side="right"))
            return number, at - starts[number]

        def named(places: Sequence[int]) -> list[Sample]:
            wanted: dict[int, list[int]] = {}
            for number, at in map(place, places):
                wanted.setdefault(number, []).append(at)
            found: dict[tuple[int, int], Sample] = {}
            for number, here in wanted.items():
                images = cleaned(self.tools, number)
                found |= {(number, at): images[at] for at in here}
            return [found[place(at)] for at in places]

        near, seen = self.clean.choose(picture_table.joined(parts), evidence, named)
        self.fallen = {"near": map(hygiene.entry, near.values()), "seen": map(hygiene.entry, seen.values())}
        gone: list[list[int]] = [[] for _ in range(self.chunks)]
        for number, at in map(place, sorted({*near, *seen})):
            gone[number].append(at)
        return gone

    def _topics(self) -> list[dict[str, str]]:
        """Generates the topics under the labels that some image has; gives the pairs without any."""
        file, rest = self.work.root / "topics.parquet", self.work.root / "topics.json"
        if not rest.exists():
            names: dict[str, set[str]] = {"domain": set(), "ability": set()}
            every = chain(self.work.every("match", self.chunks), self.work.every(general_set.STEP, self.ranked))
            for facts in every:
                for axis, found in facts["names"].items():
                    names[axis].update(found)
            tree, most, asker = self.tools.tree, self.section.topics_per_pair, self.tools.asker
            asker.account = Account()
            wishes = self.tools.wishes

            def limit(pair: topics.Pair) -> int:
                return wishes.limit(pair, most) if wishes else most

            found, barren = topics.generate(asker, tree, names["domain"], names["ability"], limit)
            added = wishes.check_topics(found) if wishes and not self.tools.task.guessed else []
            topics.write(file, [*found, *added], tree)
            told = {"barren": barren, "added": len(added)}
            write_json(rest, {**told, "took": asker.account.rows(), "missed": asker.account.missed})
        shutil.copy(file, self.out / "topics.parquet")
        told = json.loads(rest.read_text(encoding="utf-8"))
        self.took(told)
        if self.wished:
            self.wished.added = told["added"]
        return told["barren"]

    def took(self, facts: Counts) -> None:
        """Adds what the answers of a step took, and which questions got none."""
        self.account.join(facts["took"])
        add(self.missed, facts["missed"])

    def _write(self) -> None:
        """Budgets, then questions and answers."""
        self.ids = array("d")
        sizes: list[int] = []
        for facts in self.work.every("match", self.chunks):
            self.ids.extend(facts["ids"])
            sizes.append(len(facts["ids"]))
        section, ready = self.section, len(self.ids)
        if ready and section.embedder.endpoint is not None:
            _ = self.tools.topic_rows  # paid for once: workers find them among the kept rows
        budgets: list[int] | None = None
        if section.total_pairs is not None:
            most = section.max_pairs * ready  # images have fallen out since the total was checked
            self.pairs = min(section.total_pairs, most)
            budgets = density.allocate(self.ids, section.min_pairs, section.max_pairs, self.pairs)
        others: list[Others] = [[] for _ in sizes]
        if self.wished:
            self._run("fine", [Chunk(number, size) for number, size in enumerate(sizes)])
            budgets, others = self.wished.share(self.ids, sizes, budgets)
        step = max(1, -(-ready // section.density_evidence)) if section.density_evidence else 0
        chunks: list[Chunk] = []
        first = 0
        for number, size in enumerate(sizes):
            own = None if budgets is None else budgets[first : first + size]
            chunks.append(Chunk(number, size, {"first": first, "step": step, "budgets": own, "others": others[number]}))
            first += size
        self._run("write", chunks)

    def _judge(self) -> int:
        """Adds the known defects, has everything judged and verified, and gives the number of chunks there are then."""
        sizes = [facts["samples"] for facts in self.work.every("write", self.chunks)]
        if not self.work.done("defects", 0):
            self.work.publish("defects", 0, {"sizes": self._defects() if self.section.inject_defects else []})
        sizes += self.work.facts("defects", 0)["sizes"]
        self._run("judge", [Chunk(number, size) for number, size in enumerate(sizes)])
        return len(sizes)

    def _defects(self) -> list[int]:
        """Writes known defects as further chunks, and gives their sizes."""
        rows = chain.from_iterable(self.work.rows("write", number) for number in range(self.chunks))
        records = chain.from_iterable(iter_records(self.work.path("write", n)) for n in range(self.chunks))
        sizes: list[int] = []
        with closing(Index(self.work.root / "defects" / "index.sqlite", rows)) as index:
            source = index.inject(self.tools.topics, self.section.inject_defects, self.tools.seed, records)
            while spoilt := list(islice(source, _DEFECTS)):
                write_samples(self.work.path("write", self.chunks + len(sizes)), spoilt)
                sizes.append(len(spoilt))
        return sizes

    def _samples(self, judged: int) -> None:
        """Writes the samples that stay, each on its side of a split, and those that do not."""
        good = [self.work.path("judge", number, "good") for number in range(judged)]
        groups = self.clean.sorting()
        if groups is None:
            join_samples(self.out / "samples.parquet", good)
        else:
            general = [] if self.tools.task.drawn else self.general
            for sample in chain(_all(good), general):
                groups.join(self.clean.groups(sample))
            sides: Counter[Split] = Counter()

            def sorted_out() -> Iterator[Sample]:
                for sample in _all(good):
                    sample.split = groups.side(self.clean.groups(sample))
                    sides[sample.split] += 1
                    yield sample

            write_samples(self.out / "samples.parquet", sorted_out())
            self.clean.add_splits(groups, sides)
            for sample in general:
                sample.split = groups.side(self.clean.groups(sample))
            if general:
                self.clean.add_splits(groups, [sample.split for sample in general], self.clean.report["general"])
                write_samples(self.out / "general.parquet", general)
        bad = [self.work.path("judge", number, "bad") for number in range(judged)]
        unclean = [
            self.work.path(step, n, why) for why in UNCLEAN for step in ("clean", "write") for n in range(self.chunks)
        ]
        join_samples(self.out / "rejected.parquet", [*bad, *(path for path in unclean if path.exists())])


def _all(paths: Iterable[Path]) -> Iterator[Sample]:
    return chain.from_iterable(map(iter_samples, paths))


def _teller(progress: Progress | None) -> hygiene.Tell:
    def tell(step: str) -> Callable[[int, int], None] | None:
        if progress is None:
            return None
        report_to = progress
        return lambda done, total: report_to(step, done, total)

    return tell
