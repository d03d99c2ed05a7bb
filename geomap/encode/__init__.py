"""Stage 4: monthly series -> embeddings, pixel by pixel."""
