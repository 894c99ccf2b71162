"""The services of a node: one folder, one contract, one database, one certificate name each.

`services.runtime` is what every service process runs on; the services never
import each other.
"""
