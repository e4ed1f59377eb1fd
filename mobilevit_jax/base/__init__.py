"""What every room may use: files, JSON, locks, cores."""
