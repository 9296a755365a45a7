# SPDX-License-Identifier: Apache-2.0
"""What users run today, one file a peer.

`ways_X` of the operation X of benchmarks/cases.py takes the arguments of a case as NumPy arrays
and returns the peer's ways to do the same, each a function without arguments that returns its
answer. What converts the arguments is not timed.
"""
