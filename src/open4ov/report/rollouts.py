"""What the report shows of online RL: prompts of its first and last step with all their responses."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from open4ov.report.pictures import Pictures

PHASES = {"pass_at_k": "Pass@k", "diversity": "diversity-weighted Pass@1"}
ENDED = {"stop": "", "length": ", cut off", "repetition": ", stopped as a loop", "garbled": ", stopped as noise"}
"""How a response ended, as far as it is worth a word"""


def steps(inputs: Mapping[str, Path], pictures: Pictures) -> list[dict[str, Any]]:
    """The steps of `rl/rollouts.json`, pictures as data URIs (None for one that is gone); none without that file."""
    path = inputs["rl"] / "rollouts.json" if "rl" in inputs else None
    if path is None or not path.is_file():
        return []
    found: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    for step in found:
        step["phase"] = PHASES.get(step["phase"], step["phase"])
        for group in step["groups"]:
            group["pictures"] = [pictures.uri(digest) for digest in group["pictures"]]
            for response in group["responses"]:
                response["ended"] = ENDED.get(response["finish"], f", ended by {response['finish']}")
    return found
