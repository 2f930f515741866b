"""Families that are counted or learned by EM: naive Bayes, mixtures, hidden Markov models.

One file a family; families do not import each other.
"""
