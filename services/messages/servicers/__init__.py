"""The contract's services, one module each: request in, rules and store called, answer out."""
