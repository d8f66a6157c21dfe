"""Many runs from one line: where presets are found, and how the jobs of a sweep are run, watched and resumed."""
