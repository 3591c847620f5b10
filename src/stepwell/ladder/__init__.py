"""The ladder: stages, the workspace that keeps them, the climb."""
