"""Options of an experiment, from words to objects."""
