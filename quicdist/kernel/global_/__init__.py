"""The `global` name service of visible nodes: names, locks, and the exchange between clusters.

Source: OTP, global(3).
"""
