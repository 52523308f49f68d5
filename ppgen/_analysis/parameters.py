"""The parameters of primitives that the rules of this package take into account.

Tables speak of primitives by name. A new version of JAX may give an old primitive a new parameter,
which no rule takes into account. It then has another name here, which is in no table: every rule
falls to its default, which is always sound.
"""

from __future__ import annotations

from ppgen import _jax

_ACCURACY = "cbrt cos erfc exp exp2 expm1 log log1p log2 logistic rsqrt sin sqrt tan tanh".split()
_WINDOW = "window_dimensions window_strides padding base_dilation window_dilation"
_SCATTER = (
    "update_jaxpr update_consts dimension_numbers indices_are_sorted unique_indices mode fill_value"
)
_GATHERED = "all_gather_dimension axis_name axis_index_groups axis_size tiled"

PARAMETERS: dict[str, frozenset[str]] = {
    name: frozenset(parameters.split())
    for name, parameters in {
        **dict.fromkeys(_ACCURACY, "accuracy"),
        **dict.fromkeys("cumsum cumprod cummax cummin cumlogsumexp".split(), "axis reverse"),
        **dict.fromkeys("reduce_sum reduce_prod".split(), "axes out_sharding"),
        **dict.fromkeys("reduce_max reduce_min".split(), "axes out_sharding"),
        **dict.fromkeys("reduce_and reduce_or reduce_xor".split(), "axes out_sharding"),
        **dict.fromkeys("argmax argmin".split(), "axes index_dtype"),
        **dict.fromkeys("reduce_window_sum reduce_window_max reduce_window_min".split(), _WINDOW),
        **{f"scatter{kind}": _SCATTER for kind in ("", "-add", "-sub", "-mul", "-min", "-max")},
        **dict.fromkeys("psum pmax pmin".split(), "axes axis_index_groups"),
        **dict.fromkeys("psum_invariant pvary".split(), "axes"),
        **dict.fromkeys("all_gather all_gather_invariant".split(), _GATHERED),
        **dict.fromkeys("undifferentiable once forward_only".split(), "error"),
        "all_to_all": "split_axis concat_axis axis_name axis_index_groups tiled",
        "broadcast_in_dim": "shape broadcast_dimensions sharding",
        "concatenate": "dimension",
        "conj": "input_dtype",
        "conv_general_dilated": "window_strides padding lhs_dilation rhs_dilation "
        "dimension_numbers feature_group_count batch_group_count precision "
        "preferred_element_type out_sharding",
        "convert_element_type": "new_dtype weak_type sharding",
        "custom_linear_solve": "const_lengths jaxprs",
        "device_put": "devices srcs copy_semantics",
        "dot_general": "dimension_numbers precision preferred_element_type out_sharding",
        "dynamic_slice": "slice_sizes",
        "eigh": "lower sort_eigenvalues subset_by_index algorithm implementation",
        "fresh_key": "lanes dtype looped where",
        "fft": "fft_type fft_lengths",
        "gather": "dimension_numbers slice_sizes unique_indices indices_are_sorted mode fill_value",
        "implicit": "functions",
        "io_callback": "callback result_avals sharding ordered",
        "pure_callback": "callback result_avals sharding vectorized vmap_method",
        "integer_pow": "y",
        "iota": "dtype shape dimension sharding",
        "marker": "kind name where details",
        "mul": "out_dtype",
        "pad": "padding_config",
        "ppermute": "axis_name perm",
        "qr": "pivoting full_matrices use_magma",
        "random_choice": "spec lanes mapped",
        "random_gamma": "log_space",
        "reduce_precision": "exponent_bits mantissa_bits",
        "reduce_scatter": "axis_name scatter_dimension axis_index_groups axis_size tiled",
        "reshape": "new_sizes dimensions sharding",
        "rev": "dimensions",
        "round": "rounding_method",
        "sharding_constraint": "sharding layout context_mesh unconstrained_dims",
        "slice": "start_indices limit_indices strides",
        "sort": "dimension is_stable num_keys",
        "split": "sizes axis",
        "squeeze": "dimensions",
        "stack": "axis",
        "svd": "full_matrices compute_uv subset_by_index algorithm",
        "tile": "reps",
        "top_k": "k axis is_stable",
        "transformed": "within",
        "transpose": "permutation",
        "triangular_solve": "left_side lower transpose_a conjugate_a unit_diagonal",
        "unstack": "axis",
    }.items()
}
"""For each primitive: its parameters in all supported versions of JAX; others have none. Tests
compare the rules with the primitives over all of these.
"""


def rule_name(eqn: _jax.Eqn) -> str:
    """The name under which the tables of rules have an equation.

    That of its primitive if all of its parameters are known, and else one that is in no table.
    """
    name = eqn.primitive.name
    unknown = eqn.params.keys() - PARAMETERS.get(name, frozenset())
    return f"{name} with the parameter {sorted(unknown)[0]!r}" if unknown else name
