"""Fine matching through the embedder of a recipe: by images where it sees them, by descriptions where it does not."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from open4ov.corpora import in_car
from open4ov.data import construct
from open4ov.mllm import Asker, Picture
from open4ov.mllm.catalog import CatalogProvider
from open4ov.mllm.embedding import embed_texts
from open4ov.recipe import DataSection
from open4ov.recipe_embedder import EmbedderSection, EndpointSection
from open4ov.recipe_providers import BudgetSection
from open4ov.sample import Sample
from open4ov.store import ImageStore

sys.path.insert(0, str(Path(__file__).parents[1] / "mllm"))
from endpoint import endpoint


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ImageStore:
    return ImageStore(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def images(store: ImageStore) -> list[Sample]:
    return [item.store(store) for item in in_car.pictures("train", 1)][::20]


class Wilful:
    """Puts every picture where the topics about instruction lie, whatever it shows."""

    def __init__(self, sees: bool) -> None:
        self.sees, self.seen, self.read = sees, list[str](), list[str]()

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        self.read += texts
        return np.array([[1.0, "Instruction" in text] for text in texts], np.float32)

    def images(self, pictures: Sequence[Picture]) -> np.ndarray:
        assert self.sees
        self.seen += [picture.sha for picture in pictures]
        assert all(picture.image.width for picture in pictures)
        return np.array([[0.0, 1.0] for _ in pictures], np.float32)


def made(images: list[Sample], store: ImageStore, embedder: Any) -> construct.Result:
    asker = Asker(DataSection(), {"default": CatalogProvider()}, embedder=embedder)
    return construct.make(images, DataSection(), store, asker=asker)


def test_images_go_to_an_embedder_that_sees_and_their_descriptions_to_one_that_does_not(
    images: list[Sample], store: ImageStore
) -> None:
    seeing, blind = Wilful(sees=True), Wilful(sees=False)
    made(images, store, seeing)
    assert seeing.seen == [image.images[0] for image in images]
    assert not [text for text in seeing.read if "Dashboard tell-tale light:" in text]
    made(images, store, blind)
    assert [text for text in blind.read if "Dashboard tell-tale light:" in text]


def test_the_default_is_what_it_was(images: list[Sample], store: ImageStore) -> None:
    named = DataSection(embedder=EmbedderSection(name="open4ov.mllm.embedding:embed_texts"))
    assert DataSection() == named
    own = construct.make(images, DataSection(), store)
    given = made(images, store, type("Texts", (), {"sees": False, "texts": staticmethod(embed_texts)})())
    assert own.samples == given.samples
    assert own.samples


def endpoint_section(url: str, **more: Any) -> DataSection:
    told = EndpointSection(base_url=url, model="clip", api_key_env="NO_SUCH_KEY_IS_SET", batch=50, price=2.0, **more)
    return DataSection(embedder=EmbedderSection(endpoint=told), budget=BudgetSection(money=1.0))


@pytest.mark.slow
@pytest.mark.parametrize("seeing", [True, False])
def test_a_dry_run_counts_an_embeddings_endpoint_and_sends_nothing(
    images: list[Sample], store: ImageStore, seeing: bool
) -> None:
    with endpoint(lambda body, number: 500) as server:
        found = construct.estimate(images, endpoint_section(server.url, images=seeing), store, 0)
    assert not server.bodies
    (line,) = found["lines"]
    assert (line["role"], line["provider"], line["model"]) == ("embed", "data.embedder", "clip")
    assert line["images"] == (len(images) if seeing else 0)
    assert line["calls"] > len(images) if seeing else line["calls"] >= 2
    assert line["money"] == pytest.approx(2e-6 * line["input"])
    assert line["output"] == 0
