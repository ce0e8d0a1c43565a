"""Diagnostics of posteriors."""
