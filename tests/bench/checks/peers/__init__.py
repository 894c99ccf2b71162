"""Other engines on the same mandates and questions, each in a process of its own.

They are fetched for the run alone into a folder that is deleted afterwards:
Python packages by `requirements.txt`, others by npm and `package-lock.json`, all
pinned by hash. Where one cannot be had its row says so.

Each module prints what it measured as one line of JSON:
`python -m tests.bench.checks.peers.<name> --size 100000 ...`
"""
