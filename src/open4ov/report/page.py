"""report.html: one self-contained page about a run, and what it shows as files (paper §6).

The stage `report` reads the folders of the finished stages and nothing else. It writes report.html, table.json, and
examples/ with three test pictures and questions for `open4ov ask`. The same page of a run directory in
whatever state: `found.of_directory`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import jinja2
from markupsafe import Markup

from open4ov import page_fonts, templates
from open4ov.report import content, examples
from open4ov.report.content import Content
from open4ov.report.drawing import COLOURS, Drawing
from open4ov.report.found import Found
from open4ov.report.pictures import Pictures
from open4ov.report.table import shown, verdict
from open4ov.store import write_json

if TYPE_CHECKING:
    from open4ov.graph import StageRun

HTML = Path(__file__).parent / "html"
SECTIONS = {
    "headline": "headline and stages",
    "changes": "forgetting",
    "cases": "cases",
    "gallery": "the gallery",
    "training": "responses and training",
    "data": "data",
    "pool": "RL tasks",
    "offline": "preference pairs",
    "costs": "time and costs",
    "words": "words",
    "recipe": "the recipe",
}
"""Templates in the order of the page, and what they are called where one of them fails"""
LINKS = {
    "headline": "Headline",
    "stages": "Stages",
    "changes": "Forgetting",
    "cases": "Cases",
    "pictures": "Pictures",
    "responses": "Responses",
    "training": "Training",
    "data": "Data",
    "rl": "RL data",
    "costs": "Costs",
    "words-meant": "Words",
    "recipe": "Recipe",
}
"""Ids of headings, and their names in the bar"""


def run(run: StageRun) -> None:
    """The stage `report`: everything from the folders of its inputs."""
    recipe = run.recipe.model_dump(mode="json")
    found = Found(run.recipe.name, recipe, dict(run.inputs), Pictures(run.images))
    told = content.gather(found)
    run.progress("content", 1, 3)
    assert told.table is not None
    write_json(run.out / "table.json", told.table)
    examples.write(told.answers, run.images, run.out / "examples")
    run.progress("files", 2, 3)
    (run.out / "report.html").write_text(page(found, told), encoding="utf-8")
    run.progress("page", 3, 3)


def page(found: Found, told: Content) -> str:
    """The HTML of a report. Every text is escaped; pictures and plots are inside the page; it asks for nothing else."""
    environment = page_environment(told.figures)
    sections: list[Markup] = []
    for name, title in SECTIONS.items():
        template = environment.get_template(f"html/{name}.html.jinja")
        html = found.part(title, lambda template=template: template.render(**told.page))
        sections.append(Markup(html or ""))
    found.finish()
    links = [(place, title) for place, title in LINKS.items() if any(f' id="{place}"' in html for html in sections)]
    frame = environment.get_template("html/report.html.jinja")
    return page_fonts.embedded(frame.render(problems=found.problems, sections=sections, links=links, **told.page))


def page_environment(figures: dict[str, Drawing]) -> jinja2.Environment:
    """The templates with what all pages of runs use: filters, style, scripts, and `figure(name)`."""
    environment = templates.environment("open4ov.report")
    environment.filters |= {  # pyright: ignore[reportUnknownMemberType]
        "shown": shown, "verdict": verdict, "minutes": minutes, "gib": gib, "signed": signed,
    }  # fmt: skip
    environment.policies["json.dumps_kwargs"] = {"ensure_ascii": False, "separators": (",", ":")}

    def figure(name: str, wide: bool = False) -> Markup:
        """The figure of that name with its caption; nothing where the run has none such."""
        if (drawing := figures.get(name)) is None:
            return Markup("")
        kind = ' class="wide"' if wide else ""
        opening = Markup(f'<figure id="figure-{name}"{kind}><figcaption>')
        return opening + drawing.title + Markup("</figcaption>") + Markup(drawing.svg()) + Markup("</figure>")

    def script(name: str) -> Markup:
        return Markup(_asset(name))

    environment.globals |= {  # pyright: ignore[reportUnknownMemberType]
        "figure": figure,
        "drawn": figures,
        "colours": COLOURS,
        "style": Markup(_asset("style.css")),
        "script": script,
    }
    return environment


def _asset(name: str) -> str:
    return (HTML / name).read_text("utf-8")


def minutes(seconds: float) -> str:
    """65.2 -> "1 min 05 s"; under a minute with one digit."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole, rest = divmod(round(seconds), 60)
    return f"{whole} min {rest:02d} s"


def gib(count: float) -> str:
    """1610612736 -> "1.50 GiB"."""
    return f"{count / 2**30:.2f} GiB"


def signed(value: float, unit: str) -> str:
    """A difference as the tables print it, with its sign: +1.2, −0.4, 0.0."""
    text = shown(abs(value), unit)
    return text if not float(text) else ("+" if value > 0 else "−") + text
