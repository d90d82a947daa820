"""Run the command line as `python -m reprobox`."""

from reprobox.cli.main import main

if __name__ == "__main__":
    main()
