"""Variants of a recipe side by side: a grid of changes, run in one folder of stages, and one table."""

from stepwell.ablations.grid import load_grid, read_grid
from stepwell.ablations.paper import open_grid
from stepwell.ablations.result import Ablation
from stepwell.ablations.running import AblationPlan, plan_ablation, run_ablation

__all__ = ["Ablation", "AblationPlan", "load_grid", "open_grid", "plan_ablation", "read_grid", "run_ablation"]
