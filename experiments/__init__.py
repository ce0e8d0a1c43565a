"""What a person runs: data sets, presets, run folders, metrics, pictures and the command line."""
