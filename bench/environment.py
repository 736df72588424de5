"""stub"""
def device_class(device: str) -> str:
    """Stub."""
    return device
