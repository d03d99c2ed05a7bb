"""Training and evaluation of the encoder."""

from geomap.train.loop import train

__all__ = ["train"]
