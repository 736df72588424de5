"""One file per way to adapt a backbone, with the one training loop and the probe solver."""
