"""reprobox: pinned ML environments as bit-identical images, recorded runs, checked metrics.

Start at `reprobox.cli.main` for what a user types, at `reprobox.run` for what happens then.
"""

__version__ = "0.1.0"
