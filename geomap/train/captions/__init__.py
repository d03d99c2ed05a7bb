"""Method `captions`: labelled series, simulated and measured, against captions of their classes."""
