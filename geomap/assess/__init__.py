"""Accuracy and class areas of a map with confidence intervals, from a sample of its pixels; and the drawing of the sample."""
