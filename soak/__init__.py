"""Nodes of every kind under random traffic, kills and moves, for as long as is wanted."""
