"""Runs nodes under real network and machine faults and measures the effect of each fault."""
