"""Stage 3: stacks -> monthly medians of the clear observations."""
