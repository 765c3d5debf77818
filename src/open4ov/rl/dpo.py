"""Offline RL (paper §4.1.2, §4.2.3, stage 2): reference-free DPO on hallucination, brevity and preference pairs.

Where things are: `hallucination.py` makes pairs of the run's samples, `preferences.py` reads those of people,
`mining.py` has the model's own responses judged, `pair_mix.py` takes what the recipe wants of them,
`dpo_training.py` trains, with the loss of `dpo_loss.py`; `stages/dpo.py` puts them together.
"""

from open4ov.rl.dpo_loss import loss

__all__ = ["loss"]
