"""Datasets: functions sampled, packaged sets, local files."""
