"""Objectives of SVI: Pyro's ELBOs and weighted ones."""
