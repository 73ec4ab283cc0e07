"""The command line: `mwc convert`, `run`, `inspect`, `verify`, `bench`, `demo`."""
