"""`python -m epsilon`: the command line."""

from epsilon.cli import main

main()
