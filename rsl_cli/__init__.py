"""rsl: convergence studies of random sparse lifts."""
