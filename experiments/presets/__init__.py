"""The presets: one YAML file each, listed by `latentmix list`."""
