"""The pool of RL's tasks (paper §4.1.1): each source's candidates made open, checked, screened and put together."""
