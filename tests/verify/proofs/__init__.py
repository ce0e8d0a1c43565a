"""One module per topic; every module here is loaded, and registers its proofs by `registry.proof`."""
