"""Training of the encoder from captions of classes, or from ground photos (crossview)."""
