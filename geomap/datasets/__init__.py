"""Labelled series in one form, `Samples`, and the readers of published sets."""
