"""Where things lie in an image. Pure."""

PREFIX = "opt/env"
"""Where the environment lies."""


def site_packages(python: str) -> str:
    """Where wheels are unpacked, for an interpreter such as "3.11.2"."""
    return f"{PREFIX}/lib/python{'.'.join(python.split('.')[:2])}/site-packages"


def render_launcher(module: str, attr: str) -> bytes:
    """Render the script in `bin` that starts an entry point, whichever manager brings it.

    Args:
        module: Module to import, such as "hello.main".
        attr: What to call in it, such as "run" or "App.run".
    """
    return (
        f"#!/{PREFIX}/bin/python\n"
        "import sys\n\n"
        f"from {module} import {attr.split('.')[0]}\n\n"
        'if __name__ == "__main__":\n'
        f"    sys.exit({attr}())\n"
    ).encode()
