"""Evaluation: samples of every model by every method, scored against real data."""
