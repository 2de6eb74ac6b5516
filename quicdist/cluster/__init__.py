"""The connections to other nodes: names, lookups, liveness, queues, and access rules."""
