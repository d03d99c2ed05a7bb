"""geomap: from an area of interest to labelled Sentinel-2 maps.

Importing this package is light: it loads neither torch nor dask nor GDAL. Import the stage you need, for example
`from geomap import grid, catalog, run`.
"""

__version__ = "0.1.0"
