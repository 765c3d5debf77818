"""`open4ov eval --harness vlmevalkit`: the part of the command that is about the external check."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, cast

from open4ov.errors import UserError
from open4ov.evaluate import external, external_results, set_report
from open4ov.evaluate.external import Options
from open4ov.evaluate.external_process import Served, serving
from open4ov.evaluate.set_eval import Plan, Told

_KEY = "OPEN4OV_HARNESS_KEY"
"""Holds the key of the server that is started here, while it runs"""


def options(
    pictures: str | None,
    items: int,
    seed: int,
    max_tokens: int | None,
    concurrency: int,
    retries: int,
    timeout: float,
) -> Options:
    """What the command line says of the check. Raises UserError."""
    how = pictures or "exact"
    if how not in ("exact", "kit"):
        raise UserError(f"--harness-pictures {how}: exact or kit")
    return Options(how, items, seed, max_tokens, concurrency, retries, timeout)


def check(
    plan: Plan,
    what: str,
    place: Path,
    chosen: Options,
    model: str | None,
    api_key_env: str,
    quantize: str | None,
    adapter: Path | None,
    device: str,
    told: Told | None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Asks an address, or a model's folder that is served meanwhile. Raises UserError."""
    external.find_python()  # before a model is loaded for nothing
    plan = external.harness_plan(plan, place, chosen)
    if what.startswith(("http://", "https://")):
        key = os.environ.get(api_key_env, "")
        served = Served(what, cast(str, model), key)
        return external.check(plan, _endpoint(served, api_key_env, None, chosen), served, place, chosen, told)

    from open4ov.cli_serving import model_dir
    from open4ov.evaluate.answering import Here

    folder = model_dir(Path(what))
    identity = Here(folder, quantize, adapter, device).identity
    with serving(folder, place / "vlmevalkit" / "server.log", quantize, adapter, device) as served:
        os.environ[_KEY] = served.key
        try:
            answerer = _endpoint(served, _KEY, f"open4ov serve, {identity}", chosen)
            return external.check(plan, answerer, served, place, chosen, told)
        finally:
            os.environ.pop(_KEY, None)


def _endpoint(served: Served, key: str, cache_as: str | None, chosen: Options) -> Any:
    from open4ov.cli_eval import checked
    from open4ov.evaluate.answering import Endpoint
    from open4ov.recipe_providers import ProviderSection

    checked(served.address, "WHAT")
    return Endpoint(
        ProviderSection(
            kind="openai",
            base_url=served.address,
            model=served.model,
            api_key_env=key,
            concurrency=chosen.concurrency,
            timeout=chosen.timeout,
            retries=chosen.retries,
            max_pixels=None,  # as the harness sends them
            image_format="png",
            cache_as=cache_as,
        )
    )


def show(results: dict[str, Any], agreement: dict[str, Any], place: Path, as_json: bool) -> None:
    """Prints the figures and the agreement."""
    if as_json:
        print(external.to_json(results, agreement))
        return
    print(set_report.to_text(results, place))
    if agreement:
        print("\nVLMEvalKit " + str(agreement["harness"].get("ms-vlmeval", "")) + " beside ours:\n")
        print(external_results.to_text(agreement))


def judge(results: dict[str, Any], agreement: dict[str, Any], place: Path, must_agree: bool) -> None:
    """Raises UserError when the asking was ended, or the two do not agree and must."""
    if results["stopped"]:
        raise UserError(f"{results['stopped']}; {results['asked'] + results['kept']} answers are kept in {place}, and "
                        "the same command goes on from there")  # fmt: skip
    if must_agree and not agreement["agrees"]:
        raise UserError(f"--must-agree: VLMEvalKit's verdicts are not all ours; see {place / 'agreement.json'}")
