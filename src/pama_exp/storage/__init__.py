"""Files: checked by their hashes, and tables that spreadsheets may open."""
