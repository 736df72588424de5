"""Where cells run: each executor takes jobs and yields records."""
