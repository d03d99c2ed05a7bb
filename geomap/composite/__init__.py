"""Stage 3: stacks -> monthly medians of the clear observations."""

from geomap._door import callable_package

callable_package(__name__)  # `geomap.composite(...)` is a function of the API too
