"""The paper: losses, objectives, training, negatives, the selection rule of refine."""
