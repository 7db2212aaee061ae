"""What a merge writes, one file a form: each says what speaks against it, its bytes, and writes it."""
