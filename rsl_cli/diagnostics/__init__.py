"""The mechanism behind convergence, measured: tangent approximation, the bounds it gives, covering, drift."""
