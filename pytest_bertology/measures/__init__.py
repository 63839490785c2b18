"""Numbers out: one module per question, a value object each."""
