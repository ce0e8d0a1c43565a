"""LatentMix's own fits as trees for ArviZ."""
