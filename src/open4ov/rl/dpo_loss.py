"""The losses of offline RL: eq. 13, and what its relatives add to it.

Shapes: B pairs.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


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
    """Mean of -log sigmoid(beta (log p(chosen) - log p(rejected))) (eq. 13), and figures to watch.

    chosen_logp, rejected_logp [B]: summed log-probabilities of whole responses (nats); *_lengths [B]: their tokens.

    - `nll_weight`: adds the chosen responses' negative log-likelihood a token: nothing else keeps their probability
      from falling with the rejected ones'
    - `length_normalised`: log-probabilities a token (SimPO, Meng et al. 2024; with `margin`, its gamma, in nats)
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
    lead = beta * (chosen - rejected)
    value = -F.logsigmoid(lead - margin).mean()
    if label_smoothing:
        value = (1 - label_smoothing) * value - label_smoothing * F.logsigmoid(margin - lead).mean()
    figures = {
        "preference_loss": value.detach(),
        "accuracy": (lead.detach() > 0).float().mean(),
        "margin": lead.detach().mean(),
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
