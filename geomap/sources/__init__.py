"""Catalogues and servers: their conventions as data, what may be opened, leases, retries."""
