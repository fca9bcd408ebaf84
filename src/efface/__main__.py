"""`python -m efface`: the command line where its script is not on the path."""

from efface.cli import main

main()
