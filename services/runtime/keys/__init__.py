"""The hierarchy of keys under which a service keeps what it must not show.

    root            a file, a key in a PKCS #11 token, or one behind a KMS; wraps
    service keys    one generation after another, in the service's database; wrap
    data keys       one per mailbox, attachment, envelope; seal (services/runtime/sealing.py)

The root is asked when a process starts and when a service key is new, never in
a call: a token that is slow slows nothing down, one that is away stops nothing
that runs. `python -m services.runtime.keys` shows the keys and moves them to
another root.
"""
