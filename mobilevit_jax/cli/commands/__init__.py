"""The commands, a module each with `main(argv) -> status`."""
