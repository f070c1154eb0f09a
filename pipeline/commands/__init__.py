"""One module a command; `pipeline.cli` registers them."""
