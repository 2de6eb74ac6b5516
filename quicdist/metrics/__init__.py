"""Exporters of `node.stats()` for Prometheus and OpenTelemetry, based on their own libraries.

Nothing is collected in the background: an exporter reads the node when it is read itself.
"""
