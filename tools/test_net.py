"""Test a trained stage; the same as ``bsssl evaluate``."""

from bsssl.cli import main

if __name__ == "__main__":
    main(command="evaluate")
