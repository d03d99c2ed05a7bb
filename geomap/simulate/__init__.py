"""Simulated Sentinel-2: pixel series for training, and a landscape for the demo and tests."""

from geomap.simulate.archive import Archive, write_archive
from geomap.simulate.landscape import Landscape, landscape
from geomap.simulate.series import SimulatedSeries, simulate

__all__ = ["Archive", "Landscape", "SimulatedSeries", "landscape", "simulate", "write_archive"]
