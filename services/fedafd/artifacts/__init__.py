"""What is stored and sent: its places in the object store, its formats, and what each stage reads and writes."""
