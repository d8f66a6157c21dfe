"""What a configuration may hold, what it is called, and the objects that it names."""
