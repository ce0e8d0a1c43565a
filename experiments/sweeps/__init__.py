"""Sweeps: every cell of a grid."""
