"""A metric of one file: how near is a number to the right one?

Install it, and any task may name it::

    pip install examples/metric
"""
