"""A module that does not import, as torchvision does not beside a torch it was not built for."""

raise RuntimeError("operator faults::nms does not exist")
