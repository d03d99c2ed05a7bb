"""Sentinel-2 Level-2A facts: bands and their order, scene classification (SCL), DN scale, nodata.

Source: ESA Sentinel-2 Products Specification Document (S2-PDGS-TAS-DI-PSD), Level-2A; MSI spatial resolutions.
"""

from typing import Final, NamedTuple


class Band(NamedTuple):
    """One spectral band: name, central wavelength (nm, Sentinel-2A) and native pixel size (m)."""

    name: str
    wavelength: float
    resolution: int


BAND_TABLE: Final = (
    Band("B02", 492.4, 10),
    Band("B03", 559.8, 10),
    Band("B04", 664.6, 10),
    Band("B05", 704.1, 20),
    Band("B06", 740.5, 20),
    Band("B07", 782.8, 20),
    Band("B08", 832.8, 10),
    Band("B8A", 864.7, 20),
    Band("B11", 1613.7, 20),
    Band("B12", 2202.4, 20),
)

BANDS: Final = tuple(band.name for band in BAND_TABLE)
"""Band order of every array with a band axis (10 bands)."""

BANDS_10M: Final = tuple(band.name for band in BAND_TABLE if band.resolution == 10)
BANDS_20M: Final = tuple(band.name for band in BAND_TABLE if band.resolution == 20)

SCL: Final = "SCL"
"""Name of the scene classification layer, 20 m, uint8."""

SCL_CLASSES: Final = {
    0: "no data",
    1: "saturated or defective",
    2: "dark area",
    3: "cloud shadow",
    4: "vegetation",
    5: "not vegetated",
    6: "water",
    7: "unclassified",
    8: "cloud, medium probability",
    9: "cloud, high probability",
    10: "thin cirrus",
    11: "snow or ice",
}

SCL_NOT_CLEAR: Final = (0, 1, 3, 8, 9, 10, 11)
"""SCL classes that do not count as a clear observation."""

DEFECTIVE: Final = 1
"""The SCL class of saturated or defective pixels."""

NODATA_DN: Final = 0
"""The DN of nodata and nothing else: valid DNs are floored at 1 after the offset."""

REFLECTANCE_SCALE: Final = 10_000
"""DN = reflectance x 10000 (QUANTIFICATION_VALUE)."""

BOA_OFFSET_DN: Final = -1000
"""BOA_ADD_OFFSET of every band in products with processing baseline 04.00 (25 January 2022) or later."""

OFFSET_BASELINE: Final = (4, 0)
"""First processing baseline whose products carry the offset."""

MONTHS: Final = 12
"""Calendar months; the encoder has one learned position for each."""

MOST_BYTES: Final = 2**28
"""Most bytes of a block of a file once unpacked: a whole 10 m band of a granule has 241 MB."""
