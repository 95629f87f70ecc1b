"""A blank file for each graded problem: copy one, write what is left to you, grade it.

In a shell: ``cp kernels/templates/problem_4.py .``, write, and then
``python -m kernels.grader 4 problem_4.py``.
"""
