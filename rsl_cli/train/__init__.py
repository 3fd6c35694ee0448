"""Trainers and the trajectories they return."""
