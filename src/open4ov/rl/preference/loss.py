"""The losses of offline RL: eq. 13, and what its relatives add to it.

Shapes: B pairs.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from open4ov.recipe_dpo import DpoSection


def loss(
    chosen_logp: Tensor,
    rejected_logp: Tensor,
    beta: float,
    nll_weight: float = 0.0,
    chosen_lengths: Tensor | None = None,
    rejected_lengths: Tensor | None = None,
    *,
    reference: tuple[Tensor, Tensor] | None = None,
    length_normalised: bool = False,
    margin: float = 0.0,
    label_smoothing: float = 0.0,
) -> tuple[Tensor, dict[str, float]]:
    """Mean of -log sigmoid(beta (log p(chosen) - log p(rejected))) (eq. 13), and figures to watch: `lead` is in
    nats, not times beta, and a token where log-probabilities are.

    chosen_logp, rejected_logp [B]: summed log-probabilities of whole responses (nats); *_lengths [B]: their tokens.

    - `nll_weight`: adds the chosen responses' negative log-likelihood a token: nothing else keeps their probability
      from falling with the rejected ones'
    - `length_normalised`: log-probabilities a token (SimPO, Meng et al. 2024)
    - `margin`: what beta times the lead is to exceed (SimPO's gamma): the lead asked for is margin / beta nats
    - `label_smoothing`: the share of pairs whose label is taken to be wrong (cDPO, Mitchell 2023)
    - `reference`: both responses' log-probabilities [B] under the starting model, which are subtracted (DPO, Rafailov
      et al. 2023)

    Raises ValueError when lengths are missing that these need.
    """
    chosen, rejected = chosen_logp, rejected_logp
    if reference is not None:
        chosen, rejected = chosen - reference[0], rejected - reference[1]
    if length_normalised:
        if chosen_lengths is None or rejected_lengths is None:
            raise ValueError("length_normalised needs chosen_lengths and rejected_lengths")
        chosen, rejected = chosen / chosen_lengths, rejected / rejected_lengths
    lead = chosen - rejected
    value = -F.logsigmoid(beta * lead - margin).mean()
    if label_smoothing:
        value = (1 - label_smoothing) * value - label_smoothing * F.logsigmoid(margin - beta * lead).mean()
    figures = {
        "preference_loss": value.detach(),
        "accuracy": (lead.detach() > 0).float().mean(),
        "lead": lead.detach().mean(),
        "chosen_logp": chosen_logp.detach().mean(),
        "rejected_logp": rejected_logp.detach().mean(),
    }
    if nll_weight:
        if chosen_lengths is None:
            raise ValueError("nll_weight needs chosen_lengths")
        nll = -(chosen_logp / chosen_lengths).mean()
        figures["nll"] = nll.detach()
        value = value + nll_weight * nll
    values = torch.stack([figure.double() for figure in figures.values()]).tolist()  # one wait for the device
    return value, dict(zip(figures, values, strict=True))


def of_pairs(
    sums: Tensor, lengths: Tensor, section: DpoSection, reference: Tensor | None = None
) -> tuple[Tensor, dict[str, float]]:
    """The loss that a recipe asks for, as it is trained and as validation measures it.

    sums, lengths [B, 2]: log-probabilities (nats) of chosen and rejected responses, and their tokens; reference [B, 2]:
    the log-probabilities under the starting model.
    """
    return loss(
        sums[:, 0],
        sums[:, 1],
        section.beta,
        section.nll_weight,
        lengths[:, 0],
        lengths[:, 1],
        reference=None if reference is None else (reference[:, 0], reference[:, 1]),
        length_normalised=section.length_normalised,
        margin=section.margin,
        label_smoothing=section.label_smoothing,
    )
