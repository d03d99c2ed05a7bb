"""Training of the encoder, by one of two methods: captions of classes, or ground photos (crossview)."""
