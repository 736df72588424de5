"""Downloads that resume, are checked before they count, and fail in one message; no torch.

It knows the hub's interface and its cache's layout, and plain addresses; no source, no model. What
needs no network (`cache`, `settings`, `tracking`) imports without the hub's client, which takes
half a second.
"""
