"""One kind of scalar column a file: `step` is what each promises, `fitting` chooses, `profiles` and `supports` look at the values.
Nothing here knows tables, sequences or families.
"""
