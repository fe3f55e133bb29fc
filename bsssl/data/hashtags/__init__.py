"""Hashtags as classes."""
