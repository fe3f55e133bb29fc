"""Samples and batches, in an order that follows from the seed."""
