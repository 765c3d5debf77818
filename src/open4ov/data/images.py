"""Stage `images`: the pictures that data construction starts from (paper §3.1).

A source is a corpus that draws its own annotated pictures, a set that `open4ov data import` made (imported.py), or a
folder of image files, each with an optional NAME.json beside it: a JSON object, the image's annotation, kept as
`Sample.scene`. A DICOM file gives an image for each of its frames; what its header says beside (nothing that names
anybody) lies in `extra["fields"]`. Files that cannot be used are skipped, counted and listed with the reason.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain, islice, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from PIL import Image
from pydantic import ValidationError

from open4ov import corpora, side_by_side
from open4ov.annotation import texts
from open4ov.corpora import TASKS, in_car
from open4ov.corpora.generate import CHINESE_TASKS
from open4ov.data import annotation_questions, imported, metadata
from open4ov.errors import UserError
from open4ov.formats import dicom
from open4ov.formats.folder import AnnotationError, annotation, listed
from open4ov.formats.pictures import MAX_FILE, is_dicom
from open4ov.recipe import ImagesSection
from open4ov.sample import Sample, assistant, content_id, user
from open4ov.store import ImageError, ImageStore, open_image, write_json, write_samples

if TYPE_CHECKING:
    from open4ov.graph import StageRun

CORPUS = "corpus:"
ENGLISH_WEIGHT = 3  # of a general task in English, to 1 for the same in Chinese
Skipped = list[dict[str, str]]
Tell = Callable[[str, int, int], None]


def collect_images(run: StageRun) -> None:
    """Writes samples.parquet (the vertical: an image each, no messages), general.parquet and skipped.json."""
    section = run.recipe.images
    skipped: Skipped = []
    vertical, general = _drawn(section, run, skipped)
    write_samples(run.out / "samples.parquet", vertical)
    write_samples(run.out / "general.parquet", general)
    write_json(run.out / "skipped.json", skipped)
    counts = {"vertical": len(vertical), "general": len(general), "skipped": len(skipped)}
    write_json(run.out / "summary.json", counts)
    if several := _several(vertical):
        some = ", ".join(f"{name} ({frames})" for name, frames in list(several.items())[:3])
        more = ", ..." if len(several) > 3 else ""
        run.note(f"{len(several)} DICOM files have several frames, an image each: {some}{more}")
    if skipped:
        some = "; ".join(f"{entry['file']}: {entry['reason']}" for entry in skipped[:3])
        run.note(f"{len(skipped)} left out, all listed in images/skipped.json: {some}{'; ...' if skipped[3:] else ''}")


def _drawn(section: ImagesSection, run: StageRun, skipped: Skipped) -> tuple[list[Sample], list[Sample]]:
    """The vertical and the general set. What the corpora draw, which takes as long for both, is drawn side by side."""
    seed, here = run.recipe.seed, os.getpid()

    def tell(description: str, done: int, total: int) -> None:
        if os.getpid() == here:  # the screen is this process's
            run.progress(description, done, total)

    def vertical(own: Skipped) -> tuple[list[Sample], Skipped]:
        return list(_vertical(section, run.images, seed, own, tell)), own

    def general(own: Skipped) -> tuple[list[Sample], Skipped]:
        return list(_general(section, run.images, seed, own, tell)), own

    pieces = [partial(vertical, Skipped()), partial(general, Skipped())]
    both = section.vertical.startswith(CORPUS) and section.general.startswith(CORPUS)
    (first, left_out), (second, also) = side_by_side.run(pieces) if both else [piece() for piece in pieces]
    skipped += [*left_out, *also]
    return first, second


def _vertical(section: ImagesSection, store: ImageStore, seed: int, skipped: Skipped, tell: Tell) -> Iterator[Sample]:
    if not section.vertical.startswith(CORPUS):
        path = Path(section.vertical)
        known = imported.is_set(path)
        found = imported.vertical(path, store, skipped) if known else folder(path, section.max_pixels, store, skipped)
        yield from annotation_questions.asked(found, section.questions, skipped)
        return
    if section.vertical != "corpus:in_car":
        raise UserError(f"images.vertical: no corpus {section.vertical!r}; use corpus:in_car, or a folder of images")
    total = section.per_symbol * len(in_car.load())
    for done, item in enumerate(in_car.pictures("train", section.per_symbol, seed), start=1):
        yield item.store(store)
        tell("drawing the vertical", done, total)


def _general(section: ImagesSection, store: ImageStore, seed: int, skipped: Skipped, tell: Tell) -> Iterator[Sample]:
    """Items with messages: drawn for all general tasks in turn, or the `qa` of a folder's annotations."""
    if section.general_count == 0:
        return
    if not section.general.startswith(CORPUS):
        path = Path(section.general)
        known = imported.is_set(path)
        annotated = imported.general(path, store, skipped) if known else _annotated(path, section, store, skipped)
        first = next(annotated, None)
        if first is None:
            raise UserError(
                f"images.general: no question in {section.general}; give each image a NAME.json with a `qa` list of "
                "{question, answer}, or set images.general_count to 0"
            )
        yield from islice(chain([first], annotated), section.general_count)
        return
    if section.general != "corpus:general":
        raise UserError(f"images.general: no corpus {section.general!r}; use corpus:general, or a folder of images")
    kinds = [(task, "en") for task in TASKS] + [(task, "zh") for task in CHINESE_TASKS]
    weights = [ENGLISH_WEIGHT if language == "en" else 1 for _, language in kinds]
    drawn = [
        corpora.generate(task, "train", count, seed, language, section.general_questions - 1)
        for (task, language), count in zip(kinds, shares(section.general_count, weights), strict=True)
    ]
    done, pictures = 0, None
    for item in chain.from_iterable(drawn):
        done += item.images is not pictures
        pictures = item.images
        yield item.store(store)
        tell("drawing the general set", done, section.general_count)


def shares(total: int, weights: list[int]) -> list[int]:
    """`total` split by the weights into whole numbers that sum to it."""
    edges = [round(total * sum(weights[:i]) / sum(weights)) for i in range(len(weights) + 1)]
    return [after - before for before, after in pairwise(edges)]


def folder(path: Path, max_pixels: int, store: ImageStore, skipped: Skipped) -> Iterator[Sample]:
    """A sample for each image file of a folder, in the order of the names; equal pictures once.

    Folders inside it are walked too, links to folders are not. Hidden files and the annotations themselves are no
    images; everything else is one or is listed. Raises `UserError` for a folder that is missing, empty, or without one
    usable image.
    """
    if not path.is_dir():
        raise UserError(f"images: {path} is not a folder; name a folder of images, or corpus:NAME")
    files = listed(path, lambda name, reason: skipped.append({"file": name, "reason": reason}))
    stems = {file.with_suffix("") for file in files if file.suffix.lower() != ".json"}
    seen: dict[str, str] = {}
    for file in files:
        name = str(file.relative_to(path))
        if file.suffix.lower() == ".json":
            if file.with_suffix("") not in stems:
                skipped.append({"file": name, "reason": "an annotation without an image of its name"})
            continue
        try:
            scene = annotation(file.with_suffix(".json"), path)
            shown = [(store.put(image), about, removed) for image, about, removed in _pictures(file, max_pixels)]
        except (ImageError, AnnotationError) as error:
            skipped.append({"file": name, "reason": str(error)})
            continue
        for sha, about, removed in shown:
            place = f"{name}, frame {about['frame']}" if "frame" in about else name
            if sha in seen:
                skipped.append({"file": place, "reason": f"shows the same as {seen[sha]}"})
                continue
            seen[sha] = place
            extra: dict[str, Any] = {"file": name}
            extra |= {"fields": about} if about else {}
            extra |= {"metadata_removed": removed} if removed else {}
            yield Sample(
                id=content_id("folder", sha), source="folder", task="image", images=[sha], scene=scene, extra=extra
            )
    if not seen:
        some = "; ".join(f"{entry['file']}: {entry['reason']}" for entry in skipped[:3])
        raise UserError(f"images: no usable image in {path}" + (f" ({some})" if some else ": it is empty"))


def _pictures(file: Path, max_pixels: int) -> Iterator[tuple[Image.Image, dict[str, Any], list[str]]]:
    """The images of a file, what a DICOM header says of each that names nobody, and which kinds of personal data stay
    behind. Raises ImageError; UserError for DICOM without its reader, which is no fault of the file."""
    if is_dicom(file):
        if (size := file.stat().st_size) > MAX_FILE:
            raise ImageError(f"{file}: {size} bytes; the limit is {MAX_FILE}")
        for frame in dicom.frames(file.read_bytes(), file.name, max_pixels):
            yield frame.image, frame.about, list(frame.removed)
    else:
        yield open_image(file, max_pixels=max_pixels, option="images.max_pixels"), {}, metadata.kinds(file)


def _several(samples: list[Sample]) -> dict[str, int]:
    """Files of several frames, and how many each has."""
    found: dict[str, int] = {}
    for sample in samples:
        if isinstance(about := sample.extra.get("fields"), dict) and "frames" in about and "file" in sample.extra:
            found[str(sample.extra["file"])] = int(cast("dict[str, Any]", about)["frames"])
    return found


def _annotated(path: Path, section: ImagesSection, store: ImageStore, skipped: Skipped) -> Iterator[Sample]:
    """The question-answer pairs that a folder's annotations hold, as general items."""
    for image in folder(path, section.max_pixels, store, skipped):
        pairs = (image.scene or {}).get("qa")
        if not isinstance(pairs, list) or not pairs:
            name = image.extra["file"]
            skipped.append({"file": name, "reason": "no `qa` pairs in its annotation, which the general set needs"})
            continue
        for number, pair in enumerate(cast(list[Any], pairs)):
            try:
                language = pair.get("language", "en")
                question, (answer, *also) = str(pair["question"]), texts(pair["answer"], language)
                response = texts(pair.get("response"), language)[0] or answer
                aliases = [*(texts(alias, language)[0] for alias in pair.get("aliases", [])), *also]
                if not question.strip() or not answer.strip():
                    raise ValueError("its question or its answer is empty")
                sample = image.model_copy(
                    update={
                        "id": content_id(image.id, number, question),
                        "task": str(pair.get("task", "annotated")),
                        "language": language,
                        "messages": [
                            user(question, images=1),
                            assistant(response),
                        ],
                        "answer": answer,
                        "aliases": aliases,
                    }
                )
                yield Sample.model_validate(sample.model_dump())
            except (KeyError, TypeError, AttributeError, ValueError) as error:
                what = error.errors(include_url=False)[0]["msg"] if isinstance(error, ValidationError) else str(error)
                reason = f"its qa[{number}] is no question-answer pair: {' '.join(what.split())}"
                skipped.append({"file": image.extra["file"], "reason": reason})
