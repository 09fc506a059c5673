"""The real engine in virtual time, against a service in memory and a world that goes wrong.

``script.py`` draws what will go wrong from a seed; ``world.py`` is the service and all that outlives a
crash; ``wires.py`` is what one life of the program touches, and the power that can be cut;
``invariants.py`` watches the laws; ``play.py`` plays a seed through. ``python -m tests.simulation``
plays many.
"""
