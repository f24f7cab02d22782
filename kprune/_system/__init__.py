"""Files, the process, errors and child processes: nothing of Keras."""
