"""What two models answer to the same questions, as pairs whose sides are hidden.

A folder of a comparison holds `versus.json` (which models, questions and settings), `answers/` (of each model, some
questions at a time, while they are asked), `pairs.jsonl` (when all are there), `image-store/` and `verdicts/`. What is
there is never asked again.

Which model stands on the left is drawn for each question from the seed, and is nowhere in what judges see.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from open4ov.answers import normalise
from open4ov.engine import Engine, Request
from open4ov.engine.loaded import loaded
from open4ov.errors import UserError
from open4ov.run_dir import fingerprint, hash_json, read_json
from open4ov.sample import Message
from open4ov.store import ImageStore, atomic, write_json

Model = Literal["a", "b"]
Tell = Callable[[str], None]
SETTINGS, PAIRS, VERDICTS = "versus.json", "pairs.jsonl", "verdicts"
CHUNK = 32
"""Questions whose answers are written together"""


@dataclass(frozen=True)
class Asked:
    """A question for both: a conversation that ends with the user's turn."""

    id: str
    suite: str
    language: str
    messages: Sequence[Message]
    images: Sequence[Image.Image]


@dataclass(frozen=True)
class Pair:
    """A question with both answers. `swapped`: B stands on the left. `pictures`: digests in the image store."""

    id: str
    suite: str
    language: str
    earlier: str
    question: str
    pictures: list[str]
    a: str
    b: str
    swapped: bool

    @property
    def left(self) -> str:
        return self.b if self.swapped else self.a

    @property
    def right(self) -> str:
        return self.a if self.swapped else self.b

    @property
    def identical(self) -> bool:
        """Whether both say the same, but for case, spaces and marks: a tie that nobody is asked about."""
        return normalise(self.a) == normalise(self.b)


def build(
    models: dict[Model, Path], asked: Sequence[Asked], out: Path, *, seed: int, max_tokens: int, tell: Tell
) -> list[Pair]:
    """The pairs of a comparison, from its folder as far as they are there. The caller holds the folder.

    Raises UserError for a folder with another comparison, or with something else.
    """
    settings = {
        "schema": 1,
        "models": {name: {"folder": str(path), "weights": _digest(path)} for name, path in models.items()},
        "questions": hash_json([[one.id, [message.model_dump() for message in one.messages]] for one in asked]),
        "count": len(asked),
        "seed": seed,
        "max_tokens": max_tokens,
    }
    _claim(out, settings)
    if (out / PAIRS).exists():
        return read(out)
    said = {name: _answers(name, models[name], asked, out, max_tokens, tell) for name in ("a", "b")}
    store = ImageStore(out / "image-store")
    pairs = [
        Pair(
            id=one.id,
            suite=one.suite,
            language=one.language,
            earlier="\n".join(f"{message.role}: {message.text}" for message in one.messages[:-1]),
            question=one.messages[-1].text,
            pictures=[store.put(image.convert("RGB")) for image in one.images],
            a=said["a"][one.id],
            b=said["b"][one.id],
            swapped=swapped(seed, one.id),
        )
        for one in asked
    ]
    with atomic(out / PAIRS) as temporary:
        temporary.write_text(
            "".join(json.dumps(asdict(pair), ensure_ascii=False) + "\n" for pair in pairs), encoding="utf-8"
        )
    return pairs


def read(out: Path) -> list[Pair]:
    """The pairs of a folder. Raises UserError where there are none, or a line is none."""
    path = out / PAIRS
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        raise UserError(f"{out}: holds no finished comparison ({PAIRS}); make one with open4ov versus A B") from None
    pairs: list[Pair] = []
    for number, line in enumerate(lines, start=1):
        try:
            pairs.append(Pair(**json.loads(line)))
        except (ValueError, TypeError) as error:
            raise UserError(f"{path}:{number}: damaged ({error}); delete {path}, and the answers are put together "
                            "again") from None  # fmt: skip
    return pairs


def swapped(seed: int, id: str) -> bool:
    """Whether B stands on the left: a fair coin for each question."""
    return bool(hashlib.sha256(f"versus/{seed}/{id}".encode()).digest()[0] & 1)


def _claim(out: Path, settings: dict[str, Any]) -> None:
    found = read_json(out / SETTINGS)
    if found is None:
        others = sorted(path.name for path in out.iterdir() if path.name != ".lock")
        if others:
            raise UserError(f"{out}: holds other things ({others[0]}); give an --out that is new or empty")
        write_json(out / SETTINGS, settings)
    elif _compared(found) != _compared(settings):
        raise UserError(
            f"{out}: holds another comparison (other models, questions, seed or longest answer); give another --out"
        )


def _compared(settings: dict[str, Any]) -> dict[str, Any]:
    """What makes a comparison the same: weights by what is in them, wherever they lie."""
    models = {name: about["weights"] for name, about in settings.get("models", {}).items()}
    return {**settings, "models": models}


def _digest(folder: Path) -> str:
    files = [*folder.glob("*.safetensors"), folder / "config.json", folder / "tokenizer.json"]
    return fingerprint(files)


def _answers(name: Model, folder: Path, asked: Sequence[Asked], out: Path, longest: int, tell: Tell) -> dict[str, str]:
    """The greedy answer to each question; the model is loaded only when some are missing."""
    found: dict[str, str] = {}
    engine: Engine | None = None
    for start in range(0, len(asked), CHUNK):
        part = asked[start : start + CHUNK]
        path = out / "answers" / f"{name}-{start:06}.json"
        known = read_json(path) or {}
        if set(known) != {one.id for one in part}:
            tell(f"model {name.upper()}: answers {start} to {start + len(part)} of {len(asked)}")
            if engine is None:
                engine = loaded(folder)
            requests = [Request(list(one.messages), list(one.images), max_tokens=longest) for one in part]
            said = [completions[0].text for completions in engine.generate(requests)]
            known = {one.id: text for one, text in zip(part, said, strict=True)}
            write_json(path, known)
        found |= known
    return found
