"""The league of docs/league.md: every solver on a world whose front is known, as rows of one table."""
