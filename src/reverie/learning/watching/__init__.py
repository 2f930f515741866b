"""What training notices about itself: `findings` (what a finding is, what monitors see and when) and `monitors`, those of the learning
rules. A family's own monitors stand with the family; nothing here changes what is learned.
"""
