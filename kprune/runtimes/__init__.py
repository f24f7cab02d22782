"""What runs models: load, run, time, version."""
