"""The command line: composing, checking and running one configuration."""
