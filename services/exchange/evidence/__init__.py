"""What proves an exchange, and how it is checked: pure modules, without IO, clock or random numbers.

The bytes are fixed in `proto/solmu/exchange/v1`; these modules write and read
them. The service signs and keeps evidence with them; `solmu evidence verify`
checks containers with the same modules on a machine that has nothing else of
the node. Signatures are computed by `cryptography`; all faults are those of
the contract's `ErrorReason`.
"""
