"""A module that takes its process with it, as a broken native library does."""

import os

os._exit(9)
