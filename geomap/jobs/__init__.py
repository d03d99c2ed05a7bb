"""Job files: what to map regularly, which periods are due, and how a scheduler starts a job."""
