"""Trained networks in the formats of other programs; each exporter is a part of ``bsssl.registry.EXPORTERS``.

An exporter puts its files together in a folder of its own, has the library that they are for load them, compares the
probabilities of the model's examples, and only then copies the files to their place.
"""
