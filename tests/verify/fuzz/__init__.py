"""Broken configurations, files and pictures, drawn from a seed, and the outcomes of commands on them."""
