"""What a BEAM node is, in Python: processes, links, monitors, connections, calls."""
