"""Run the whole recipe; the same as ``bsssl run``."""

from bsssl.cli import main

if __name__ == "__main__":
    main(command="run")
