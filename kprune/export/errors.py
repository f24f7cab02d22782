"""What an export raises when it cannot keep its promise."""


class ExportError(RuntimeError):
    """A model could not be turned into a file that runs; nothing was left behind."""


class VerificationError(ExportError):
    """The file runs, but its outputs are further from the Keras model's than the tolerance."""
