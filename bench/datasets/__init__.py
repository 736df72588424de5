"""One file per place that datasets come from, and how splits are drawn and images decoded."""
