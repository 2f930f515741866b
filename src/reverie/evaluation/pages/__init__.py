"""How reports look: `page` fills the HTML templates, `pictures` draws figures, `exhibits` chooses those of a model. Numbers are made
elsewhere in `evaluation`.
"""
