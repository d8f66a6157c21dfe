"""Objectives, their scorers (gold programs, classifiers, functions, servers) and their normalisers."""
