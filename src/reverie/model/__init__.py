"""What `fit` returns. `Model` (model.py) lists the verbs; each is one function in the file of its kind (sampling, scoring, codes,
filling, classes, saving), a function of the `Core` that holds recipe, schema, codec and network. Only here are data converted,
seeded, chunked and moved to devices. Nothing here trains or knows a family."""
