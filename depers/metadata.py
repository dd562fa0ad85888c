"""Metadata."""


def residue(data: bytes) -> list[str]:
    """What is in a file besides picture, orientation, profile."""
    return []
