"""The model over the data, fast: encoding, batches, results in order, and a store that runs nothing twice."""
