"""Weight clustering: few different values in a kernel, trained together."""
