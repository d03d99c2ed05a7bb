"""Accuracy and class areas of a map with confidence intervals, and the sample of its pixels that they need."""
