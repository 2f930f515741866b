"""How any rule learns: the one trainer, its phases and budgets, one learner a file, devices and processes, run folders.

Nothing here knows a family or asks what kind of model it trains.
"""
