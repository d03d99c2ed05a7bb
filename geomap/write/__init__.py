"""Stage 6: maps -> files: COG, QGIS styles, STAC, virtual rasters."""
