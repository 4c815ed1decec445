"""A model of joins: one key, three nodes that have it, others that join; all orders of steps, or many at random.

`model` has the states and what may come next, `rules` what the code decides, `search` looks for a broken promise.
"""
