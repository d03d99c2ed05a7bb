"""Stage 5: embeddings -> classes, confidence and scores."""

from geomap._door import callable_package

callable_package(__name__)  # `geomap.label(...)` is a function of the API too
