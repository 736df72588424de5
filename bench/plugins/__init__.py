"""What other distributions add to bench: found, held to its protocol, and named when it fails."""

from bench.plugins.found import KINDS, Found, Plugin, find_plugins
from bench.plugins.guard import guard

__all__ = ["KINDS", "Found", "Plugin", "find_plugins", "guard"]
