"""`python -m moescope.app`: the same as the `moescope` command."""

from .cli.commands import main

if __name__ == "__main__":
    main()
