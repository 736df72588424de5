"""`python -m bench` is the command `bench`; knows nothing more."""

from bench.cli import main

if __name__ == "__main__":
    main()
