"""The tests, in the folders of the package; tests.support holds what several of them use."""
