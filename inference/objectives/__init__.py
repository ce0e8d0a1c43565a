"""Objectives of SVI: the contract, Pyro's ELBOs, weighted ones, and conversion from Pyro's ELBOs and callables."""
