"""Method `captions`: simulated and measured series with class labels, against captions of the classes."""
