"""What a runtime accelerates; checking, advising, preparing and rewriting by it."""
