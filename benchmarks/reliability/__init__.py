"""What kills, damage, full disks and bad commands do to runs: docs/reliability.md, and the campaign that makes it."""
