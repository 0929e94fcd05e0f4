"""`python -m everloop` is the command `everloop`."""

from everloop.cli import main

main()
