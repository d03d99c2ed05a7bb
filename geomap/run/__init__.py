"""A run as a directory that survives anything: tiles, retries, resume, publication."""
