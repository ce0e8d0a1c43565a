"""Compilation of a step of SVI: loss and gradients traced once, compiled by inductor."""
