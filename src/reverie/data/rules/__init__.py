"""What holds in every row of a table: rules as data, finding them, and rewriting rows so that they hold by construction. Columns
are float arrays here (`codec.columns.to_float`); nothing here knows models or model space.
"""
