"""Stage 5: embeddings -> classes, confidence and scores."""
