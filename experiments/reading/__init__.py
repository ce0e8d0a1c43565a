"""Files of strangers, read within stated limits: YAML, arrays, pictures."""
