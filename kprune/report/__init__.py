"""How results are shown: tables, plots, and files written whole or not at all.

Nothing here knows what a model is and nothing imports another room of kprune, so every room may
import this one.
"""
