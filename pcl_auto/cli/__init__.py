"""Parse the command line, call one function of the library, print its result."""
