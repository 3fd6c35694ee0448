"""Tables, plots, verdict and page of a study, from its run files alone."""
