"""Labelled points and polygons of one's own: files -> places with a class -> pixels and classes of a legend."""
