"""A run as a directory that survives any crash: tiles, retries, resume, publication."""
