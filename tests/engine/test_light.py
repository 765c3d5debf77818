"""What needs no model starts without PyTorch."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from open4ov import engine


def loaded_by(code: str) -> set[str]:
    """The packages that a fresh interpreter has loaded when it has done so much."""
    asked = f"import json, sys\n{code}\nprint(json.dumps(sorted({{name.split('.')[0] for name in sys.modules}})))"
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


def test_a_router_starts_without_pytorch() -> None:
    """The command itself, up to where it would listen."""
    code = (
        "from open4ov.engine.routing import listen\n"
        "listen.run = lambda app, *options: None\n"
        "from open4ov.cli_serving import app\n"
        "app(['route', 'http://127.0.0.1:1'], standalone_mode=False)"
    )
    loaded = loaded_by(code)
    assert {"open4ov", "httpx2", "uvicorn"} <= loaded
    assert not loaded & {"torch", "llguidance", "tokenizers"}


def test_the_engine_is_there_when_it_is_asked_for() -> None:
    assert "torch" not in loaded_by("import open4ov.engine")
    for name in engine.__all__:
        assert getattr(engine, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'Motor'"):
        _ = engine.Motor  # pyright: ignore[reportAttributeAccessIssue]
