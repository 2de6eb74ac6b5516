"""Faults of networks and machines, tried for real: what each costs, and that nothing else does."""
