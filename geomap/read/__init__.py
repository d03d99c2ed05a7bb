"""Stage 2: Scenes -> lazy stacks of raw DNs over a grid."""
