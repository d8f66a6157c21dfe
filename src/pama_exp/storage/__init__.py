"""Files: hashes and manifests, and CSV tables that are safe to open in a spreadsheet."""
