"""Stages in the abstract: what a stage is, the record of what is done, and the runner."""
