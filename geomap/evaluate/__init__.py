"""Evaluation as in the paper (arXiv 2508.11919v3, sections 4 and 5)."""
