"""Weights: their files, their names, and how they are loaded."""
