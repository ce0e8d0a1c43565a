"""Runs: training, measuring, and the folder that holds them."""
