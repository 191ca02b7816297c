"""The contract as code: spec models, schemas, recipes, errors. No torch, no network."""
