"""Sparse products on plain index arrays; they know no graph."""
