"""The paper's claims, checked one by one: a recipe with a part of the paradigm and without it, several seeds, paired.

`claims.py` reads what is claimed and by which arms it is checked, `arms.py` makes a recipe of each arm, `plan.py` finds
which stages the arms share, `running.py` runs what is missing (`sharing.py` links what is there), `figures.py`,
`effects.py` and `reach.py` measure, `verdict.py` says what follows, `outcome.py` and `table.py` write it down. It
stands above `pipeline.py`, whose runs it starts.
"""
