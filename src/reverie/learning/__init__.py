"""How any rule learns: the one trainer, its phases and budgets, devices and processes, run folders; the rules are in `rules`.

Nothing here knows a family or asks what kind of model it trains.
"""
