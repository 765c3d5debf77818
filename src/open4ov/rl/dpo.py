"""Offline RL (paper §4.1.2, §4.2.3, stage 2): reference-free DPO on hallucination, brevity and preference pairs.

Where things are: `hallucination.py` makes pairs of the run's samples; in `preference/`, `human.py` reads those of
people, `mining.py` has the model's own responses judged, `mix.py` takes what the recipe wants of them, and
`training.py` trains, with the loss of `loss.py`; `stages/dpo.py` puts them together.
"""

from open4ov.rl.preference.loss import loss

__all__ = ["loss"]
