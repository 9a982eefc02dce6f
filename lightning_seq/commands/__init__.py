"""One file a group of commands: COMMANDS names them, ``main(argv)`` runs them."""
