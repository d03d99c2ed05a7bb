"""The tests, in the folders of the package; tests.support holds what several of them use."""

import os

if "PYTEST_XDIST_WORKER" in os.environ:
    # Before torch and numpy are loaded: threads of two workers on two cores wait for each other, and actively.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
