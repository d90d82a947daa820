"""Where things lie in an image. Pure."""

PREFIX = "opt/env"
"""Where the environment lies."""


def site_packages(python: str) -> str:
    """Where wheels are unpacked, for an interpreter such as "3.11.2"."""
    return f"{PREFIX}/lib/python{'.'.join(python.split('.')[:2])}/site-packages"
