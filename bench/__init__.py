"""Side by side, the same work in one run, as ratios. `python -m bench.NAME`; results in bench/results/."""
