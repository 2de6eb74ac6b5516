"""`Node`: the facade over runtime, cluster and kernel, with its events and statistics."""
