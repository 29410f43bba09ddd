# SPDX-License-Identifier: MIT
"""Whether figures reach their goals: as compare.h does it, for benchmarks in Python."""
import math


class Goals:
    """Use: goals = Goals(); goals.judge("idle", 0.004, most=0.2, unit=" %"); …; sys.exit(goals.status())"""

    def __init__(self):
        self.n_missed = 0

    def judge(self, what, figure, *, most=None, least=None, unit=""):
        """Prints a line that ends in "reached" or "missed by N %"."""
        goal = f"at most {most:g}" if least is None else f"at least {least:g}"
        excess = figure / most - 1 if least is None else least / figure - 1 if figure > 0 else math.inf
        verdict = "reached" if excess <= 0 else f"missed by {math.ceil(min(excess, 9.99) * 100)} %"
        self.n_missed += excess > 0
        print(f"{what}: {figure:.4g}{unit}, {goal}{unit}: {verdict}", flush=True)

    def status(self):
        return int(self.n_missed > 0)
