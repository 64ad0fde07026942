"""The proof that the stream engine is exactly once: faults on real servers, then a comparison.

project    a Feast project with every kind of streaming view, applied once and copied
feed       events with nulls, disorder, ties, duplicates, late, future and broken ones
truth      what must come out, in slow and obvious Python, from what the topics hold
compare    every window, row, log row and dead letter against that
crew       real workers: started, killed, frozen, thrown out of their group
scenarios  the faults, as a table
"""
