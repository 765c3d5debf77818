"""balance.html and balance.md: what balancing did to the shares of labels, and what latent classes say of it. Both from
the contents of balance.json alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from open4ov import page_fonts, templates
from open4ov.report import plots_balance

KINDS = {"embedding": "What embeddings see", "attributes": "What attributes say"}
AXES = {"domain": "Domain", "ability": "Ability"}


def page(figures: Mapping[str, Any]) -> str:
    """The HTML: self-contained, asks for nothing else, every text escaped."""
    environment = templates.environment("open4ov.report")
    environment.filters |= {"percent": percent, "chance": chance, "plain": plain, "mostly": mostly}  # pyright: ignore[reportUnknownMemberType]
    latent = figures.get("latent", {})
    html = environment.get_template("html/balance.html.jinja").render(
        samples=figures["samples"],
        level=figures["level"],
        axes=[
            (key, AXES[key], part, Markup(plots_balance.shares(key, part["labels"])))
            for key, part in figures["axes"].items()
        ],
        shortfalls=figures["shortfalls"],
        latent=[
            (
                KINDS[kind],
                latent[kind],
                Markup(plots_balance.clusters(kind, latent[kind])),
                Markup(plots_balance.criterion(kind, latent[kind])),
            )
            for kind in KINDS
            if kind in latent
        ],
        verdict=verdict,
    )
    return page_fonts.embedded(html)


def verdict(found: Mapping[str, Any]) -> str:
    """What the volumes of classes say, in a sentence."""
    count, after = found["classes"], found["after"]
    if count == 1:
        return "One class fits best: nothing is hidden under the labels that this view could see."
    ratio = (
        "some are empty" if after["max_min"] is None else f"the largest is {after['max_min']:.1f} times the smallest"
    )
    if found["hidden_imbalance"]:
        return f"Labels hide an imbalance: of {count} classes {ratio} after balancing (p {chance(after['p'])})."
    return f"No clear imbalance is hidden: of {count} classes {ratio} after balancing (p {chance(after['p'])})."


def to_markdown(figures: Mapping[str, Any]) -> str:
    """The same figures as Markdown tables."""
    return "\n".join(_markdown(figures)) + "\n"


def _markdown(figures: Mapping[str, Any]) -> Iterator[str]:
    samples = figures["samples"]
    yield "# Balance"
    yield ""
    yield (
        f"{samples['training']} training samples given; {samples['drawn']} in the balanced set (asked: "
        f"{samples['asked']}), {samples['different']} of them different; {samples['left_out']} left out."
    )
    for axis, part in figures["axes"].items():
        yield ""
        yield f"## {AXES[axis]}"
        yield ""
        if part["unlabelled"]:
            yield f"{part['unlabelled']} samples have no {axis} label."
            yield ""
        yield from _table(
            ("label", "before", "target", "after", "after, percent"),
            (
                (
                    row["label"],
                    plain(row["before"]),
                    plain(row["target"]),
                    plain(row["after"]),
                    percent(row["after_share"]),
                )
                for row in part["labels"]
            ),
        )
        yield ""
        yield from _evenness(part)
    if figures["shortfalls"]:
        yield ""
        yield "## Labels that are short"
        yield ""
        yield from _table(
            ("axis", "label", "different samples", "target", "got", "scarce"),
            (
                (s["axis"], s["label"], s["have"], s["target"], s["got"], "yes" if s["scarce"] else "no")
                for s in figures["shortfalls"]
            ),
        )
    for kind, found in figures.get("latent", {}).items():
        yield ""
        yield f"## {KINDS[kind]}"
        yield ""
        yield verdict(found)
        yield ""
        yield from _table(
            ("class", "before", "after", "mostly"),
            ((place, row["before"], row["after"], mostly(row)) for place, row in enumerate(found["clusters"], start=1)),
        )
        yield ""
        yield from _evenness(found)
        yield ""
        key = found["criterion"]
        curve = ", ".join(f"{int(point['classes'])}: {point[key]:.1f}" for point in found["curve"])
        yield f"{key.upper()} by number of classes: {curve}."


def _evenness(part: Mapping[str, Any]) -> Iterator[str]:
    yield from _table(
        ("", "classes", "entropy", "effective number", "Gini", "largest / smallest", "chi-square", "p"),
        (
            (
                when,
                part[when]["classes"],
                *(plain(part[when][key]) for key in ("entropy", "effective", "gini", "max_min", "chi_square")),
                chance(part[when]["p"]),
            )
            for when in ("before", "after")
        ),
    )


def _table(head: Sequence[str], rows: Any) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield "|---" * len(head) + "|"
    for row in rows:
        yield f"| {' | '.join(str(cell).replace('|', '/') for cell in row)} |"


def mostly(cluster: Mapping[str, Any]) -> str:
    """What a class is made of, in a line: the commonest of each kind, where it is a fifth at least."""
    said = [
        f"{value} {percent(share)} %"
        for what in ("domain", "ability", "task", "language", "length")
        for value, share in cluster[what][:1]
        if share >= 0.2
    ]
    return "; ".join(said) or "mixed"


def percent(share: float | None) -> str:
    """0.1234 -> "12.3"."""
    return "–" if share is None else f"{100 * share:.1f}"


def chance(p: float | None) -> str:
    """A p value."""
    return "–" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def plain(value: float | None) -> str:
    """A number with what digits it needs."""
    return "–" if value is None else f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"
