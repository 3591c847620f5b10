"""Dual encoders and cross-encoders: opened, cut, run."""
