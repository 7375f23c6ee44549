"""One module a dashboard, and the toolkit they share."""
