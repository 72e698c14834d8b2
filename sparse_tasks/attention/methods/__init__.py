"""The methods, one a file. Importing this module registers them, in the order in which they are listed."""

# isort: off
from sparse_tasks.attention.methods import vertical_slash, block_sparse, flexprefill, streaming_llm, tri_shape
from sparse_tasks.attention.methods import xattention
from sparse_tasks.attention.methods import quest, sparq, twilight
from sparse_tasks.attention.methods import snapkv, ada_snapkv, pyramidkv, tova, h2o, knorm
# isort: on

__all__ = [
    "ada_snapkv",
    "block_sparse",
    "flexprefill",
    "h2o",
    "knorm",
    "pyramidkv",
    "quest",
    "snapkv",
    "sparq",
    "streaming_llm",
    "tova",
    "tri_shape",
    "twilight",
    "vertical_slash",
    "xattention",
]
