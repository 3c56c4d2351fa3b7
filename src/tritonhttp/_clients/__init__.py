"""The clients. `awaited` is the source, `blocking` is generated from it but for what truly differs."""
