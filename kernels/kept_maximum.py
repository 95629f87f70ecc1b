"""A maximum that is kept: how far a row may outgrow it.

A softmax may be taken relative to any number m: each p = 2^(s − m) and their sum l
change by the same factor. It need not be the largest score; all that is asked is that
nothing leaves the range of its dtype. So a kernel may keep the maximum of the blocks
that it visits first, and neither look for a larger one nor rescale. bfloat16 reaches as
far as float32; a row that finds scores larger by less than 64 powers of two is as exact
as with its true maximum, as long as no value of V exceeds 2⁶² (chapter 10 has the
proof). For rows that find larger ones, l says so in the end: then it all has to be done
once more, and the maximum followed, as FlashAttention does. (FlashDecoding++, Hong et
al., 2023, has one maximum given for all rows, and falls back in the same way.)
"""

import triton.language as tl

LARGEST_SUM = tl.constexpr(2.0**64)  # l of a row, relative to a maximum that was kept
