"""Applications that the integration suite starts as workers, and calls."""
