"""What catalogues and servers want: their conventions as data, what may be opened, leases, retries."""
