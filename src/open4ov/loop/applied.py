"""A plan put into effect: the recipe of its round, and the feedback file that data construction reads."""

from __future__ import annotations

from pathlib import Path

from open4ov import feedback
from open4ov.feedback import Feedback, Wish
from open4ov.loop.plan import Plan
from open4ov.pipeline import finished_model
from open4ov.recipe import Recipe
from open4ov.recipe_loop import LoopSection

FEEDBACK, ANSWERS, STORE = "feedback.yaml", "asked", "image-store"
NOTICED = 0.02
"""A place whose share is within this part of what falls to it anyway is not wished more or less of"""


def place(root: Path, number: int) -> Path:
    """The run directory of a round."""
    return root / f"round-{number}"


def recipe_of(recipe: Recipe, root: Path, plan: Plan | None) -> Recipe:
    """The recipe of a round: round 1's is the loop's; a later one's has what its plan says. All share the answers of
    endpoints, so that what was asked about a picture is not paid again. The feedback file is there by then
    (`write_feedback`)."""
    data = recipe.data.model_copy(update={"cache": recipe.data.cache or str(root / ANSWERS)})
    if plan is None:
        return recipe.model_copy(update={"data": data, "loop": LoopSection()})
    here, sft, admission, model = place(root, plan.round), recipe.sft, recipe.admission, recipe.model
    data = data.model_copy(update={"total_pairs": plan.pairs})
    if wishes(recipe, plan):
        data = data.model_copy(update={"feedback": str(here / FEEDBACK)})
    if plan.abilities is not None:
        total = sum(one.share for one in plan.abilities)
        blend = {one.ability: one.share / total for one in plan.abilities}
        sft = sft.model_copy(update={"ability": sft.ability.model_copy(update={"blend": blend})})
    if plan.replay is not None:
        sft = sft.model_copy(update={"knowledge": sft.knowledge.model_copy(update={"replay": plan.replay.share})})
    if plan.hard:
        harder = sft.preference_set.model_copy(update={"hard": str(place(root, plan.round - 1))})
        sft = sft.model_copy(update={"preference_set": harder})
    if plan.ration is not None:
        window = {"lowest": plan.ration.lowest, "highest": plan.ration.highest}
        admission = admission.model_copy(update={"ration": admission.ration.model_copy(update=window)})
    if plan.start == "last":
        last = finished_model(place(root, plan.round - 1))
        assert last is not None, "a round is planned when the one before it is finished"
        model = str(last)
    update = {"data": data, "sft": sft, "admission": admission, "model": model, "loop": LoopSection()}
    return recipe.model_copy(update=update)


def wishes(recipe: Recipe, plan: Plan) -> list[Wish]:
    """What data construction is asked for: the recipe's own wishes, what is to be made better, and for each place as
    many times more or less as its share says."""
    found = list(feedback.read(Path(recipe.data.feedback)).wishes) if recipe.data.feedback else []
    found += plan.better
    for topic in plan.topics:
        factor = max(topic.factor, 1 / 16)
        if abs(factor - 1) <= NOTICED:
            continue
        more = factor > 1
        found.append(
            Wish(
                want="more" if more else "less",
                domain=topic.domain,
                ability=topic.ability,
                topic=topic.topic,
                weight=round(factor - 1 if more else 1 / factor - 1, 6),
                reason=topic.reason,
            )
        )
    return found


def write_feedback(recipe: Recipe, root: Path, plan: Plan, labels: int) -> None:
    """Writes the round's feedback file, or removes one that is not wanted any more. `labels`: the label tree's
    version."""
    path = place(root, plan.round) / FEEDBACK
    wanted = wishes(recipe, plan)
    if not wanted:
        path.unlink(missing_ok=True)
        return
    Feedback(source=f"plan of round {plan.round}", labels=str(labels), wishes=wanted).write(path)
