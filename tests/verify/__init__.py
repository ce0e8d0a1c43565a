"""The long proofs: `make verify` runs those whose code has changed since they last passed."""
