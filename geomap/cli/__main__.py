"""`python -m geomap.cli`."""

from geomap.cli import main

if __name__ == "__main__":
    main()
