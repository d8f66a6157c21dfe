"""The study of docs/study.md: what is run, how, and what is made of it."""
