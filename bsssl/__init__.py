"""Billion-scale semi-supervised learning for images and video (Yalniz et al. 2019, arXiv 1905.00546)."""

__version__ = "0.1.0"
