"""Embedders that a recipe may name: functions, a folder, and what is wrong with either."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from open4ov.errors import UserError
from open4ov.mllm import Picture
from open4ov.mllm.embedders import FunctionEmbedder, Remembered, identity, open_embedder
from open4ov.mllm.embedding import embed_texts
from open4ov.recipe_embedder import EmbedderSection


def picture(sha: str, colour: str = "red") -> Picture:
    return Picture(sha, lambda: Image.new("RGB", (40, 30), colour))


def section(**given: object) -> EmbedderSection:
    return EmbedderSection.model_validate(given)


def test_a_function_embeds_texts_as_it_always_did() -> None:
    embedder = open_embedder(section(name="open4ov.mllm.embedding:embed_texts"))
    assert not embedder.sees
    assert np.array_equal(embedder.texts(("a red sign", "左转")), embed_texts(["a red sign", "左转"]))
    with pytest.raises(UserError, match="texts only"):
        embedder.images([picture("a")])


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ([[1.0], [2.0]], "shape .*2, 1.* for 1 text"),
        ([1.0], r"shape \[1\]"),
        ([[float("nan")]], "row 0 .*not finite"),
        ([["word"]], "no array of numbers"),
        (None, "data.embedder"),
    ],
)
def test_what_a_function_may_not_give(given: object, told: str) -> None:
    with pytest.raises(UserError, match=told):
        FunctionEmbedder(lambda texts: given).texts(["one"])  # pyright: ignore[reportArgumentType]


def test_rows_of_images_are_kept_once_and_not_for_ever() -> None:
    asked: list[str] = []

    class Seeing:
        sees = True

        def texts(self, texts: object) -> np.ndarray:
            return np.zeros((0, 2), np.float32)

        def images(self, pictures: list[Picture]) -> np.ndarray:
            asked.extend(picture.sha for picture in pictures)
            return np.array([[ord(picture.sha), 1] for picture in pictures], np.float32).reshape(-1, 2)

    embedder = Remembered(Seeing(), most=3)
    assert embedder.images([picture("a"), picture("b"), picture("a")])[:, 0].tolist() == [97, 98, 97]
    assert embedder.images([picture("b"), picture("c")])[:, 0].tolist() == [98, 99]
    assert asked == ["a", "b", "c"]
    embedder.images([picture("d")])
    assert embedder.images([picture("a")])[0, 0] == 97
    assert asked == ["a", "b", "c", "d", "a"]
    assert embedder.images([]).shape == (0, 2)


def test_identity_follows_the_source_of_a_function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    file = tmp_path / "own_embedder_of_a_test.py"
    file.write_text("def embed(texts):\n    return [[1.0]] * len(texts)\n")
    first = identity(section(name="own_embedder_of_a_test:embed"))
    file.write_text("def embed(texts):\n    return [[2.0, 1.0]] * len(texts)\n")
    assert first
    assert identity(section(name="own_embedder_of_a_test:embed")) != first
    assert identity(section(name="open4ov.mllm.embedding:embed_texts")) == ""


def layout(folder: Path, kind: str = "sentence_transformers.base.modules.transformer.Transformer") -> Path:
    folder.mkdir()
    (folder / "modules.json").write_text(json.dumps([{"idx": 0, "name": "0", "path": "", "type": kind}]))
    return folder


def test_folders_that_are_no_model_are_named(tmp_path: Path) -> None:
    def told(folder: Path) -> str:
        with pytest.raises(UserError) as error:
            open_embedder(section(directory=str(folder)))
        with pytest.raises(UserError) as again:
            identity(section(directory=str(folder)))
        assert str(error.value) == str(again.value)
        return str(error.value)

    assert "is no folder" in told(tmp_path / "none")
    (tmp_path / "bare").mkdir()
    assert "has no modules.json" in told(tmp_path / "bare")
    pickled = layout(tmp_path / "pickled")
    (pickled / "pytorch_model.bin").write_bytes(b"cos\nsystem\n")
    assert "no weights as safetensors (only .bin)" in told(pickled)
    own = layout(tmp_path / "own", "modeling_own.Model")
    (own / "model.safetensors").write_bytes(b"")
    assert "modeling_own.Model is code of the folder's own" in told(own)
    (own / "modules.json").write_text("{")
    assert "not a list of modules" in told(own)


def test_a_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    folder = layout(tmp_path / "model")
    (folder / "model.safetensors").write_bytes(b"")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"open4ov\[embed\]"):
        open_embedder(section(directory=str(folder)))


def test_a_folder_of_sentence_transformers_embeds_texts_and_images(tmp_path: Path) -> None:
    pytest.importorskip("sentence_transformers", reason="the extra `embed` is not installed")
    import tiny_clip
    from sentence_transformers import SentenceTransformer

    folder = tiny_clip.save(tmp_path)
    embedder = open_embedder(section(directory=str(folder), batch=2))
    assert embedder.sees
    texts = ["a red sign", "a bird", "one more"]
    pictures = [picture(str(number), colour) for number, colour in enumerate(("red", "blue", "green"))]
    theirs = SentenceTransformer(str(folder), device="cpu")
    assert np.allclose(embedder.texts(texts), theirs.encode(texts), atol=1e-6)
    assert np.allclose(embedder.images(pictures), theirs.encode([one.image for one in pictures]), atol=1e-6)
    assert embedder.images([]).shape == embedder.texts([]).shape == (0, 8)
    first = identity(section(directory=str(folder)))
    config = folder / "config.json"
    config.write_text(config.read_text() + " ")
    assert identity(section(directory=str(folder))) != first
    (folder / "model.safetensors").write_bytes(b"none")
    with pytest.raises(UserError, match=r"cannot be opened"):
        open_embedder(section(directory=str(folder)))
