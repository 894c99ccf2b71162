"""The services of the contract, one module each: requests in, answers out."""
