"""Objectives and what scores them: gold programs, classifiers, functions; normalisers."""
