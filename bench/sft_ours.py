"""Our training loop as a worker of `python -m bench.sft`, whole or with some of its savings taken away.

    python -m bench.sft_ours SETTINGS

SETTINGS is JSON: model, data, out (folders), epochs, pack_tokens, rate, precision, compile, threads, most (steps),
first (only the first samples, in their order), parts (packs that an update is computed in), and
`without`: which savings to leave out, for the table of factors: `share` (each question of a picture has the picture by
itself), `cache` (the frozen tower's features are computed at
every step), `once` (a picture is read and resized at every step), `targets` (the head is applied to every position),
`packing` (documents are padded to the longest of their batch: `batch` samples, of like length when `grouped`).
The first "step" it reports is all that comes before training: tokens, plan of packs, pictures and their features.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from bench.sft_pace import Pace
from bench.sft_work import read, repeated
from open4ov.model import Encoded, Pack, Processor, Qwen3VL, VisionFeatures, pack
from open4ov.recipe import SftSection, SftStage
from open4ov.sample import Sample
from open4ov.sft.encoding import Encoder
from open4ov.sft.fit import fit
from open4ov.store import ImageStore


class Measured(Encoder):
    """The loop's encoder, with its savings switched off by name."""

    def __init__(self, processor: Processor, store: ImageStore, told: dict[str, Any], pace: Pace) -> None:
        self.told, self.pace = told, pace
        self.without = set(told["without"])
        super().__init__(processor, store, share="share" not in self.without)
        self.counts: list[dict[str, int]] = []

    def freeze(
        self, model: Qwen3VL, samples: Iterable[Sample], progress: Callable[[str, int, int], None] | None = None
    ) -> None:
        if "cache" in self.without:
            self.thaw()
        else:
            super().freeze(model, samples, progress)
        self.pace.step()

    def pack(self, samples: Sequence[Sample]) -> tuple[Pack, VisionFeatures | None]:
        if "once" in self.without:
            self.pictures.clear()
        joined, features = super().pack(samples)
        tokens = sum(self.length(sample) for sample in samples)
        self.counts.append({"tokens": tokens, "targets": len(joined.predicted), "samples": len(samples)})
        if "packing" in self.without:
            joined = replace(self._padded([self.document(sample) for sample in samples]), pixels=joined.pixels)
        if "targets" in self.without:
            joined = replace(joined, targets=torch.ones_like(joined.targets))
        self.counts[-1]["slots"] = len(joined.input_ids)
        return joined, features

    def _padded(self, documents: list[Encoded]) -> Pack:
        """Every document as long as the longest of its batch, by tokens that are not predicted."""
        size = self.told["batch"]
        order = list(range(len(documents)))
        if self.told["grouped"]:
            order.sort(key=lambda index: len(documents[index]))
        longest = {
            index: max(len(documents[other]) for other in order[start : start + size])
            for start in range(0, len(order), size)
            for index in order[start : start + size]
        }
        return pack([self._extended(document, longest[index]) for index, document in enumerate(documents)])

    def _extended(self, document: Encoded, length: int) -> Encoded:
        more = length - len(document)
        return replace(
            document,
            input_ids=F.pad(document.input_ids, (0, more), value=self.processor.pad_id),
            positions=F.pad(document.positions, (0, more)),
            targets=F.pad(document.targets, (0, more)),
        )


def main() -> None:
    told = json.loads(Path(sys.argv[1]).read_text())
    torch.set_num_threads(told["threads"])
    torch.set_flush_denormal(True)
    torch.manual_seed(0)
    out = Path(told["out"])
    store = ImageStore(out / "store")
    samples = read(Path(told["data"]), "train", store)
    samples = samples[: told["first"]] if "first" in told else repeated(samples, told["epochs"])
    model = Qwen3VL.from_pretrained(told["model"]).to(told["device"])
    pace = Pace()
    encoder = Measured(Processor.from_pretrained(told["model"]), store, told, pace)
    section = SftSection(
        pack_tokens=told["pack_tokens"] // told["parts"],
        accumulate=told["parts"],
        embedding_eps=1e-8,  # the peer's
        precision=told["precision"],
        compile=told["compile"],
        weight_decay=0.01,
        lr_schedule="constant",
    )
    options = SftStage(tokens=told["pack_tokens"], learning_rate=told["rate"], warmup=0, freeze_vision=True)
    done = 0

    def log(point: dict[str, Any]) -> None:
        nonlocal done
        own, encoder.counts[:] = encoder.counts[: told["parts"]], encoder.counts[told["parts"] :]
        pace.step(loss=point["loss"], **{name: sum(one[name] for one in own) for name in own[0]})
        done += 1

    pace.begin()
    fit(model, encoder, samples, section, options, log=log, stop_after=told.get("most"))
    model.save_pretrained(out / "model")
    pace.end(total=done)


if __name__ == "__main__":
    main()
