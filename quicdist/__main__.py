"""`python -m quicdist` is the `quicdist` command."""

from quicdist.cli import main

main()
