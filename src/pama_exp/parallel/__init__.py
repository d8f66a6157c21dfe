"""One run in several processes: starting them, and the sums and gathers between them."""
