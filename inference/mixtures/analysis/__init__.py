"""Analyses of fitted mixtures."""
