"""Records -> one self-contained HTML file."""
