"""The facts of mandates in a process's own memory, and the judgement of checks by them.

A process that holds the facts judges a check itself, in microseconds, by the
same rules as the service (`checking.py`). It keeps facts and the instants
between which they hold, never a decision; and it knows at every moment how new
its facts are known to be, so that what it cannot know it does not answer.
"""
