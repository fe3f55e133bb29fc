"""Copy the selected samples into shuffled tars; the same as ``bsssl materialise``."""

from bsssl.cli import main

if __name__ == "__main__":
    main(command="materialise")
