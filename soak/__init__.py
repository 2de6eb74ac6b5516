"""Long-running test: nodes of each kind with random traffic, kills and address changes."""
