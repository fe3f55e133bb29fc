"""Trained networks in the formats of other programs; each exporter is a part of ``bsssl.registry.EXPORTERS``."""
