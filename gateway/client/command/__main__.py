"""python -m gateway.client.command: the same as `solmu`."""

from gateway.client.command import main

main()
