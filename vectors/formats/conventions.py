"""Where each library adds the vector that its file numbers N, and where it had read it.

All places are outputs of blocks, `resid_post`: the input of block N is the output of block N-1, and
`resid_post` is what the engine steers. What is right for a file is what its own library does with
it, so `applied` is the default; `extracted` differs where a library reads at one block and adds at
the next, and is there for those who want the vector back where it was measured. Sources read
(2026-11):

    repeng              0.4.0 extract.py reads hidden_states[N + 1]; control.py adds to block N's
                        output at all tokens
    dialz               1.1.4 vector.py: the same code under another architecture name
    llama.cpp           common.cpp stores direction.N at (N-1) * n_embd and llama-adapter.cpp takes
                        layer il from (il-1) * n_embd: block N's output, all tokens, N >= 1
    cvector-generator   mean.hpp, pca.hpp: the output of block I (`l_out`) becomes direction.I+1
    activation-steering steering_vector.py reads hidden_states[N + 1]; leash_layer.py adds to block
                        N's input
    CAA                 llama_wrapper.py: block N's output both times, from the last prompt token on
    EasyEdit            model_wrapper.py: as CAA, but all tokens
    refusal_direction   hook_utils.py: block N's input both times, all tokens
"""

from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from steersman.vectors.defaults import Positions


class LayerConvention(NamedTuple):
    """A place in the words of the file's library, and the shift from N to a `resid_post` layer."""

    words: str
    shift: int


@dataclass(frozen=True)
class FormatRule:
    """What a library does with its files. `extracted` is None where it is not known."""

    format: str
    library: str
    applied: LayerConvention
    extracted: LayerConvention | None
    positions: Positions


_OUTPUT: Final = LayerConvention("output of block N", 0)
_OUTPUT_BEFORE: Final = LayerConvention("output of block N-1", -1)
_INPUT: Final = LayerConvention("input of block N", -1)

REPENG: Final = FormatRule("gguf", "repeng", _OUTPUT, _OUTPUT, "all")
DIALZ: Final = FormatRule("gguf", "dialz", _OUTPUT, _OUTPUT, "all")
CVECTOR_GENERATOR: Final = FormatRule(
    "gguf", "llama.cpp cvector-generator", _OUTPUT, _OUTPUT_BEFORE, "all"
)
CONTROL_VECTOR: Final = FormatRule("gguf", "unknown", _OUTPUT, None, "all")
ACTIVATION_STEERING: Final = FormatRule("svec", "activation-steering", _INPUT, _OUTPUT, "all")
CAA: Final = FormatRule("pt", "CAA", _OUTPUT, _OUTPUT, "generation")
EASY_EDIT: Final = FormatRule("pt", "EasyEdit", _OUTPUT, _OUTPUT, "all")
REFUSAL: Final = FormatRule("pt", "refusal_direction", _INPUT, _INPUT, "all")
BARE: Final = FormatRule("pt", "unknown", _OUTPUT, None, "generation")
TENSORS: Final = FormatRule("safetensors", "unknown", _OUTPUT, None, "generation")
ARRAY: Final = FormatRule("npy", "unknown", _OUTPUT, None, "generation")
ARRAYS: Final = FormatRule("npz", "unknown", _OUTPUT, None, "generation")


def of_hidden_states(rule: FormatRule) -> FormatRule:
    """`rule` for a file whose N counts Hugging Face's `hidden_states`, of which 0 is embeddings."""
    return replace(rule, applied=LayerConvention("hidden_states[N], the output of block N-1", -1))


def made_by(rule: FormatRule, maker: str) -> FormatRule:
    """`rule` for a file that names `maker`, a tool without a rule here, as its writer."""
    return replace(rule, library=maker)


def measured_where_applied(rule: FormatRule) -> FormatRule:
    """`rule` for a file that was measured where it is applied, by its own keys."""
    return replace(rule, extracted=rule.applied)
