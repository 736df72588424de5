"""Claims about speed and memory, each a ratio to the plain way, measured side by side."""
