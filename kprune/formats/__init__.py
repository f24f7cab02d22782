"""Model files, read and edited; nothing is run."""
