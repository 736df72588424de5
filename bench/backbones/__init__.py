"""One file per place that backbones come from; a new one is a file here and a registry line."""
