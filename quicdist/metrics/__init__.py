"""What `node.stats()` tells, for Prometheus and OpenTelemetry, through their own libraries.

Nothing is collected in between: an exporter reads the node when it is itself read.
"""
