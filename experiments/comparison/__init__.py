"""Comparison of finished runs: what differs, figures over seeds, and paired differences on the same test data."""
