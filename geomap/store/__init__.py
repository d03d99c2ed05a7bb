"""Zarr between the stages: composites and embeddings, kept and read again."""
