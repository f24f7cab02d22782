"""What acts during `fit`, and what it leaves on the model."""
