"""Method `crossview`: series against ground photos of the same places, as in the paper (arXiv 2508.11919v3)."""
