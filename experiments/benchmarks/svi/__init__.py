"""Speed of SVI beside other libraries: each contestant has a process of its own, and all take turns, an epoch each."""
