"""The paper's tables and figures on one's own data; the same as ``bsssl reproduce``."""

from bsssl.cli import main

if __name__ == "__main__":
    main(command="reproduce")
