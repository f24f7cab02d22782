"""Sparse variational dropout: each weight learns its noise, and most become noise only."""
