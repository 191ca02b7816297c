"""From a request to a plan: the layers of the spec, the data, the cost and whether AutoML runs."""
