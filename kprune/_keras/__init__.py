"""Every use of Keras that no public name allows, each behind one small function."""
