"""Balance put together from parts that do not know one another: the label tree of data construction, admission's
balance and latent classes, an embedder, and the page that shows it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from open4ov.admission import latent, scarce
from open4ov.admission.balance import AXES, Balanced, Known, balance
from open4ov.admission.mixtures import Floats
from open4ov.data.labels import LabelTree, load
from open4ov.data.topics import Topic
from open4ov.mllm.ask import Picture
from open4ov.mllm.embedders import Embedder, open_embedder
from open4ov.recipe_balance import BalanceSection
from open4ov.recipe_labels import LabelsSection
from open4ov.report import balance_page
from open4ov.sample import Sample
from open4ov.store import write_json

Tell = Callable[[str, int, int], None]
IMAGES = 256  # pictures embedded between two reports of progress


def known(tree: LabelTree) -> Known:
    """The names of a label tree, as balance wants them."""
    return {axis: tree.places(axis) for axis in AXES}


def balanced(
    samples: Sequence[Sample],
    section: BalanceSection,
    out: Path,
    picture: Callable[[str], Image.Image],
    seed: int = 0,
    labels: str | Path | LabelsSection | None = None,
    topics: Sequence[Topic] = (),
    tell: Tell = lambda step, done, total: None,
) -> Balanced:
    """The balanced set; `out` gets balance.json, balance.md, balance.html, and feedback.yaml where something is scarce.

    `picture`: an image by its digest; `labels`: the tree's file, or what is added to the shipped one (None);
    `topics`: those that data construction knows. Raises UserError as `balance` does, and for images that are missing.
    """
    tree = load(labels)
    found = balance(samples, section, known(tree), seed)
    if section.max_clusters:
        embedder = open_embedder(section.embedder)
        found.figures["latent"] = latent.study(
            samples, found.counts, section, lambda shown: _rows(embedder, shown, picture, tell), seed
        )
    wishes = scarce.feedback(
        samples,
        found.shortfalls,
        section.max_repeat,
        [scarce.TopicOf(one.path, " ~ ".join(one.domain), " ~ ".join(one.ability)) for one in topics],
        str(tree.version),
    )
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "balance.json", found.figures)
    (out / "balance.md").write_text(balance_page.to_markdown(found.figures), encoding="utf-8")
    (out / "balance.html").write_text(balance_page.page(found.figures), encoding="utf-8")
    if wishes.wishes:
        wishes.write(out / "feedback.yaml")
    return found


def _rows(embedder: Embedder, samples: Sequence[Sample], picture: Callable[[str], Image.Image], tell: Tell) -> Floats:
    """What latent classes see of each sample [N, D]: its texts, and beside them the mean of its pictures where the
    embedder sees; both at length 1, a sample without pictures has zeros there."""
    texts = _unit(embedder.texts(["\n".join(message.text for message in sample.messages) for sample in samples]))
    if not embedder.sees:
        return texts
    shas = list(dict.fromkeys(sha for sample in samples for sha in sample.images))
    parts: list[Floats] = []
    for start in range(0, len(shas), IMAGES):
        some = [Picture(sha, lambda sha=sha: picture(sha)) for sha in shas[start : start + IMAGES]]
        parts.append(_unit(embedder.images(some)))
        tell("embedding pictures", min(start + IMAGES, len(shas)), len(shas))
    if not parts:
        return texts
    every = np.concatenate(parts)
    place = {sha: at for at, sha in enumerate(shas)}
    shown = np.zeros((len(samples), every.shape[1]))
    for row, sample in zip(shown, samples, strict=True):
        if sample.images:
            row[:] = every[[place[sha] for sha in sample.images]].mean(axis=0)
    return np.concatenate([texts, shown], axis=1)


def _unit(rows: object) -> Floats:
    found = np.asarray(rows, dtype=np.float64)
    norms = np.linalg.norm(found, axis=1, keepdims=True)
    return found / np.where(norms == 0, 1, norms)
