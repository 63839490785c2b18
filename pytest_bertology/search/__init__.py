"""Which heads can go: searches for the largest set of heads that can be masked with the score at a floor."""
