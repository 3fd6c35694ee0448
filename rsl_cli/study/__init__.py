"""Runs on disk: what identifies a study, where it lies, who computes it."""
