"""What model families share: the transformer, input units and sizes, published weights."""
