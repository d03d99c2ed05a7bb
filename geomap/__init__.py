"""geomap: from an area of interest to labelled Sentinel-2 maps.

Importing this package is light: it loads neither torch nor dask nor GDAL.
"""

import os

__version__ = "0.1.0"

os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")
# ^ MKL's "conditional numerical reproducibility": without it, a row of a float32 product depends on where the row lies
#   in memory on processors without AVX-512 (measured on an AMD EPYC), and maps on how an area is cut. Read by MKL once,
#   at its first product.
