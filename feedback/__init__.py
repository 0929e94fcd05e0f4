"""The loop's memory and judgement: store, dataset, trigger, gate, rollout.

Nothing here trains, serves or measures drift; `feedback/loop.py` wires those parts together.
"""
