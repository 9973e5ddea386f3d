"""Files that must be refused: (id, bytes, expected param, expected code)."""

import io
import json
import pickle
from typing import Any

import numpy as np
import torch
from safetensors.torch import save

from tests.support.vectors.make import HIDDEN, raw_file, tensor_entry, vector_file, with_metadata

_ZEROS = b"\0" * 4 * HIDDEN


def _tensor(name: str, tensor: torch.Tensor) -> bytes:
    return save({name: tensor})


def _meta(**fields: Any) -> bytes:
    return with_metadata(json.dumps(fields))


def _torch_save() -> bytes:
    out = io.BytesIO()
    torch.save({"resid_post.3": torch.ones(4)}, out)
    return out.getvalue()


FILES: list[tuple[str, bytes, str | None, str]] = [
    ("empty", b"", "file", "empty_file"),
    ("five bytes", b"hello", "file", "not_safetensors"),
    ("text", b"this is no safetensors file at all", "file", "header_too_large"),
    ("header of 90 MB", raw_file(b"{}", announced=90 << 20), "file", "header_too_large"),
    ("header of 2**64-1", raw_file(b"{}", announced=2**64 - 1), "file", "header_too_large"),
    ("header cut off", vector_file()[:40], "file", "truncated"),
    ("values cut off", vector_file()[:-1], "file", "truncated"),
    ("bytes after the end", vector_file() + b"x", "file", "not_safetensors"),
    ("pickle", pickle.dumps({"resid_post.3": np.ones(4)}), "file", "pickle"),
    ("pickle protocol 2", pickle.dumps({"a": 1}, protocol=2), "file", "pickle"),
    ("torch.save", _torch_save(), "file", "pickle"),
    ("header is not JSON", raw_file(b"{nonsense"), "file", "not_safetensors"),
    ("header is not UTF-8", raw_file(b'{"\xff\xfe": 1}'), "file", "not_safetensors"),
    ("header is a list", raw_file([]), "file", "not_safetensors"),
    ("header nested deeply", raw_file(b"[" * 100_000), "file", "not_safetensors"),
    ("a number of 9000 digits", raw_file(b'{"a":' + b"9" * 9000 + b"}"), "file", "not_safetensors"),
    ("no tensors", raw_file({}), None, "no_tensors"),
    ("tensor twice", raw_file(b'{"resid_post.3":1,"resid_post.3":2}'), "resid_post.3",
     "invalid_vector"),
    ("tensor described by a number", raw_file({"resid_post.3": 7}), "file", "not_safetensors"),
    ("offsets are text", raw_file(tensor_entry(data_offsets=["0", "64"]), _ZEROS), "file",
     "not_safetensors"),
    ("offsets negative", raw_file(tensor_entry(data_offsets=[-64, 0]), _ZEROS), "file",
     "not_safetensors"),
    ("offsets of another size", raw_file(tensor_entry(data_offsets=[0, 8]), _ZEROS[:8]), "file",
     "not_safetensors"),
    ("shape of text", raw_file(tensor_entry(shape=["16"]), _ZEROS), "file", "not_safetensors"),
    ("shape that overflows", raw_file(tensor_entry(shape=[2**62, 2**62]), _ZEROS), "file",
     "not_safetensors"),
    ("overlapping tensors", raw_file(tensor_entry() | tensor_entry("resid_post.4"), _ZEROS), "file",
     "not_safetensors"),
    ("unknown tensor", _tensor("lm_head.weight", torch.ones(4)), "lm_head.weight",
     "unknown_tensor"),
    ("unknown site", _tensor("resid.3", torch.ones(4)), "resid.3", "unknown_tensor"),
    ("layer with a zero before", _tensor("resid_post.03", torch.ones(4)), "resid_post.03",
     "unknown_tensor"),
    ("layer in other digits", raw_file(tensor_entry("resid_post.\u0663"), _ZEROS),
     "resid_post.\u0663", "unknown_tensor"),
    ("negative layer", _tensor("resid_post.-1", torch.ones(4)), "resid_post.-1", "unknown_tensor"),
    ("float16", _tensor("resid_post.3", torch.ones(4, dtype=torch.float16)), "resid_post.3",
     "wrong_dtype"),
    ("bfloat16", _tensor("resid_post.3", torch.ones(4, dtype=torch.bfloat16)), "resid_post.3",
     "wrong_dtype"),
    ("three dimensions", _tensor("resid_post.3", torch.ones(2, 2, 2)), "resid_post.3", "bad_shape"),
    ("scalar", _tensor("resid_post.3", torch.tensor(1.0)), "resid_post.3", "bad_shape"),
    ("no values", _tensor("resid_post.3", torch.ones(0)), "resid_post.3", "bad_shape"),
    ("mixed hidden sizes", save({"resid_post.3": torch.ones(4), "resid_post.4": torch.ones(5)}),
     "resid_post.4", "mixed_hidden_sizes"),
    ("metadata key twice", with_metadata('{"coefficient": 1, "coefficient": 9}'), "coefficient",
     "invalid_vector"),
    ("metadata key twice, deep", with_metadata('{"method_settings": {"a": {"b": 1, "b": 2}}}'), "b",
     "invalid_vector"),
    ("half a surrogate pair in settings", with_metadata(r'{"method_settings": {"a": "\ud800"}}'),
     "method_settings", "bad_metadata"),
    ("half a surrogate pair as a key", with_metadata(r'{"method_settings": {"\udfff": 1}}'),
     "method_settings", "bad_metadata"),
    ("half a surrogate pair as a field", with_metadata(r'{"\ud800": 1}'), r"\ud800",
     "bad_metadata"),
    ("half a surrogate pair as a tensor", raw_file(tensor_entry("\ud800"), _ZEROS), r"\ud800",
     "unknown_tensor"),
    ("1e999 in settings", with_metadata('{"method_settings": {"a": [1e999]}}'), "method_settings",
     "bad_metadata"),
    ("settings nested deeply", with_metadata('{"method_settings": {"a":' + "[" * 300 + "]" * 300
     + "}}"), "steersman", "bad_metadata"),
    ("NaN", _tensor("resid_post.3", torch.tensor([1.0, torch.nan])), "resid_post.3", "not_finite"),
    ("infinite", _tensor("resid_post.3", torch.tensor([1.0, -torch.inf])), "resid_post.3",
     "not_finite"),
    ("metadata of numbers", raw_file(tensor_entry(), _ZEROS, metadata={"steersman": 1}),
     "__metadata__", "bad_metadata"),
    ("metadata not JSON", with_metadata("{"), "steersman", "bad_metadata"),
    ("metadata nested deeply", with_metadata("[" * 100_000), "steersman", "bad_metadata"),
    ("metadata a list", with_metadata("[]"), "steersman", "bad_metadata"),
    ("metadata with NaN", with_metadata('{"coefficient": NaN}'), "steersman", "bad_metadata"),
    ("version 2", _meta(format_version=2), "format_version", "unknown_format_version"),
    ("version true", _meta(format_version=True), "format_version", "unknown_format_version"),
    ("misspelt field", _meta(coeficient=2), "coeficient", "bad_metadata"),
    ("name with a slash", _meta(name="a/b"), "name", "invalid_name"),
    ("name a number", _meta(name=5), "name", "bad_metadata"),
    ("description a list", _meta(description=[]), "description", "bad_metadata"),
    ("description too long", _meta(description="x" * 5000), "description", "bad_metadata"),
    ("half a surrogate pair", with_metadata(r'{"description": "\ud800"}'), "description",
     "bad_metadata"),
    ("method a number", _meta(method=1), "method", "bad_metadata"),
    ("method_settings text", _meta(method_settings="x"), "method_settings", "bad_metadata"),
    ("base_model text", _meta(base_model="gpt"), "base_model", "bad_metadata"),
    ("base_model's size text", _meta(base_model={"hidden_size": "16"}), "base_model.hidden_size",
     "bad_metadata"),
    ("base_model's other key", _meta(base_model={"layers": 3}), "base_model.layers",
     "bad_metadata"),
    ("base_model of another size", _meta(base_model={"hidden_size": 8}), "base_model.hidden_size",
     "wrong_hidden_size"),
    ("base_model too shallow", _meta(base_model={"num_layers": 3}), "base_model.num_layers",
     "layer_out_of_range"),
    ("coefficient text", _meta(coefficient="2"), "coefficient", "invalid_vector"),
    ("coefficient true", _meta(coefficient=True), "coefficient", "invalid_vector"),
    ("coefficient 1e999", with_metadata('{"coefficient": 1e999}'), "coefficient",
     "invalid_vector"),
    ("coefficient 1e300", _meta(coefficient=1e300), "coefficient", "invalid_vector"),
    ("coefficient of 400 digits", _meta(coefficient=10**400), "coefficient", "invalid_vector"),
    ("layers text", _meta(layers="3"), "layers", "bad_metadata"),
    ("layers empty", _meta(layers=[]), "layers", "bad_metadata"),
    ("layers of text", _meta(layers=["3"]), "layers", "bad_metadata"),
    ("a layer it lacks", _meta(layers=[3, 4]), "layers", "layer_not_in_vector"),
    ("unknown positions", _meta(positions="everywhere"), "positions", "invalid_vector"),
    ("positions half", _meta(positions={"start": 1}), "positions", "invalid_vector"),
    ("positions of floats", _meta(positions={"start": 1.0, "stop": 2}), "positions",
     "invalid_vector"),
    ("positions empty", _meta(positions={"start": 2, "stop": 2}), "positions", "invalid_vector"),
    ("safe_range of one", _meta(safe_range=[1]), "safe_range", "invalid_vector"),
    ("safe_range upside down", _meta(safe_range=[1, -1]), "safe_range", "invalid_vector"),
    ("norms a list", _meta(norms=[]), "norms", "bad_metadata"),
    ("norms of text", _meta(norms={"resid_post.3": "1"}), "norms.resid_post.3", "invalid_vector"),
    ("norms of no tensor", _meta(norms={"x": 1}), "x", "unknown_tensor"),
    ("licence a number", _meta(licence=1), "licence", "bad_metadata"),
    ("created_at no time", _meta(created_at="yesterday"), "created_at", "bad_metadata"),
]  # fmt: skip
