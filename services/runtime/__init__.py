"""What every service process runs on, and nothing about any service's subject.

A name belongs here if two services need it and it would read the same in both.
The runtime imports no service.
"""
