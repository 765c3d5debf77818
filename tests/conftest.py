"""A tiny random Qwen3-VL with its own byte-level BPE, saved once a session in Hugging Face's layout."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings
from tiny import tiny_config, tiny_tokenizer

from open4ov.model import Qwen3VL, make_tokenizer_files

# no test is about time: a busy machine is no fault
settings.register_profile("open4ov", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("open4ov")
torch.set_num_threads(1)  # the models of tests are so small that a second thread is mostly waited for


@pytest.fixture(autouse=True)
def _settings_of_the_process() -> Iterator[None]:
    """A run sets threads and flushes denormal numbers to zero for the whole process; no test inherits it."""
    yield
    torch.set_flush_denormal(False)  # hypothesis refuses to work otherwise
    if torch.get_num_threads() != 1:
        torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="module")
def _what_is_imported_is_not_looked_through_again() -> None:
    """Libraries leave a million objects, which every collection would walk; each stage of a run collects once."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def tiny_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that `Qwen3VL.from_pretrained` and `Processor.from_pretrained` read. Do not write into it."""
    directory = tmp_path_factory.mktemp("tiny")
    processor = make_tokenizer_files(directory, tiny_tokenizer())
    Qwen3VL(tiny_config(processor), seed=1).save_pretrained(directory)
    return directory
