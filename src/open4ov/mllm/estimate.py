"""What data construction would ask, and what that would cost, without sending anything (`open4ov run --dry-run`).

All steps run as they would, with every prompt as it would be sent; only the answers are made up, twice. **Likely**:
pairs of a middling density, answers of usual length. **At most**: every image gets the pairs of density 1, text has a
token for each byte, and each answer is as long as `max_tokens` allows. Every judge and check is in favour, so that the
later steps follow the earlier ones. Neither has what is asked twice: answers sent back, failed requests tried again.

Topics stand apart. They are asked once for each pair of labels that some image has; made-up labels spread over the
whole tree, while real pictures share a few, so their number is a bound only, far above what a small set asks for.

Images are counted by the recipe's rule. A question that is asked twice counts once, as the kept answer would be used;
one whose answer is kept from an earlier start costs nothing, and what follows is built on that answer.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from open4ov.mllm import tokens
from open4ov.mllm.guessing import ENDPOINT, Row
from open4ov.recipe import DataSection
from open4ov.recipe_providers import PriceSection, ProviderSection

TOPICS = "topics"


def _asked(section: DataSection, name: str) -> ProviderSection:
    """Model, price and image rule of whoever a row is about."""
    endpoint = section.embedder.endpoint
    if name != ENDPOINT or endpoint is None:
        return section.providers[name]
    price = None if endpoint.price is None else PriceSection(input=endpoint.price, output=0)
    return ProviderSection(kind="openai", model=endpoint.model, price=price, image_tokens=endpoint.image_tokens)


def figures(
    section: DataSection, rows: dict[tuple[str, str], Row], most: dict[tuple[str, str], Row], place: Path | None = None
) -> dict[str, Any]:
    """The estimate as data: lines by role and provider with what is likely and, under `most`, what there is at most;
    totals of all lines and of all but topics; what the run has spent before; by which rules images were counted."""
    from open4ov.mllm.budget import spent_before
    from open4ov.mllm.desk import book_of

    tokens_before, money_before = spent_before(book_of(place)) if place else (0, 0.0)
    lines: list[dict[str, Any]] = [
        {
            "role": role, "provider": name, "model": _asked(section, name).model or "",
            **_counts(section, name, row), "priced": _asked(section, name).price is not None,
            "most": _counts(section, name, most.get((role, name), row)),
        }
        for (role, name), row in rows.items()
    ]  # fmt: skip
    rules = {name: tokens.rule_in_words(_asked(section, name).image_tokens) for _, name in rows}
    return {
        "lines": lines,
        "total": _sum(lines),
        "without_topics": _sum([line for line in lines if line["role"] != TOPICS]),
        "spent": {"tokens": tokens_before, "money": money_before},
        "image_rules": rules,
    }


def _counts(section: DataSection, name: str, row: Row) -> dict[str, Any]:
    return {
        "calls": row.calls, "kept": row.kept, "images": row.images, "image_tokens": row.image_tokens,
        "input": row.usage.input, "output": row.usage.output, "money": row.usage.money(_asked(section, name).price),
    }  # fmt: skip


def _sum(lines: list[dict[str, Any]]) -> dict[str, Any]:
    names = ("calls", "kept", "images", "image_tokens", "input", "output", "money")
    most = {name: sum(line["most"][name] for line in lines) for name in names}
    return {**{name: sum(line[name] for line in lines) for name in names}, "most": most}


def to_text(found: dict[str, Any], section: DataSection) -> str:
    """The estimate as a table for a person."""
    if not found["lines"]:
        return "No provider is an endpoint: nothing would be sent, and nothing paid."
    head = ("role", "provider", "calls", "kept", "images", "input tokens", "of images", "output tokens", "cost",
            "at most: calls", "input", "output", "cost")  # fmt: skip
    rows: list[tuple[str, ...]] = [head]
    asked_once = [line for line in found["lines"] if line["role"] == TOPICS]
    rest = [line for line in found["lines"] if line["role"] != TOPICS]
    sums: list[dict[str, Any]] = [{"role": "all but topics", "provider": "", "priced": True, **found["without_topics"]}]
    whole: list[dict[str, Any]] = (
        [{"role": "all", "provider": "", "priced": True, **found["total"]}] if asked_once else []
    )
    for line in [*rest, *(sums if rest else []), *asked_once, *whole]:
        most = line["most"]
        counts = [f"{line[name]:,}" for name in ("calls", "kept", "images", "input", "image_tokens", "output")]
        bounds = [f"{most[name]:,}" for name in ("calls", "input", "output")]
        costs = [f"{one['money']:.4g}" if line["priced"] else "no price" for one in (line, most)]
        rows.append((str(line["role"]), str(line["provider"]), *counts, costs[0], *bounds, costs[1]))
    widths = [max(len(row[place]) for row in rows) for place in range(len(head))]
    text = [
        "  ".join(cell.ljust(width) if place < 2 else cell.rjust(width)
                  for place, (cell, width) in enumerate(zip(row, widths, strict=True))).rstrip()
        for row in rows
    ]  # fmt: skip
    text += [f"images for {name}: {rule}" for name, rule in found["image_rules"].items()]
    text.append(
        "Likely: pairs of a middling density, answers of usual length. At most: density 1, a token for each byte, "
        "answers as long as max_tokens. In both every judge agrees, and nothing has to be asked again or tried again."
    )
    if asked_once:
        text.append(
            "Topics are asked once for each pair of labels that some image has. Here the labels spread over the whole "
            "tree, so this is a bound; pictures of one domain share a few labels and ask far less."
        )
    total, limits, spent = found["total"], section.budget, found["spent"]
    if total["kept"]:
        text.append(
            f"{total['kept']:,} answers are kept from before and cost nothing again; they are in no other column."
        )
    if spent["tokens"]:
        text.append(f"Spent so far: {spent['tokens']:,} tokens, {spent['money']:.4g} by the prices of then.")
    rest_total = found["without_topics"]
    for name, limit, need, rest_need in (
        ("tokens", limits.tokens, *(one["input"] + one["output"] for one in (total, rest_total))),
        ("money", limits.money, total["money"], rest_total["money"]),
    ):
        left = 0.0 if limit is None else max(0.0, limit - spent[name])
        if limit is None or need <= left:
            continue
        of_it = f", of which {left:,.6g} are left" if spent[name] else ""
        text.append(
            f"data.budget.{name} is {limit:,}{of_it}: "
            + (
                f"about {left / rest_need:.0%} of what is likely without topics, and the run would stop there."
                if rest_need > left
                else "enough for all but topics as it seems; with as many topics as the bound, the run would stop."
            )
        )
    if "warning" in found:
        text.append(f"Note: {found['warning']}.")
    return "\n".join(text)
