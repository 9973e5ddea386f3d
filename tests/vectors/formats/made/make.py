r"""Make the files beside this one, with the libraries whose formats they are; the tests need none.

    python -m venv V && V/bin/pip install --no-deps repeng==0.4.0 dialz==1.1.4 \
        steering-vectors==0.12.2 "transformer-lens<3" ... (and what they import)
    V/bin/python -m tests.vectors.formats.made.make
    python -m venv W && W/bin/pip install torch sae-lens gguf     (alone: it wants its own versions)
    W/bin/python -m tests.vectors.formats.made.make sae_lens

`manifest.json` says for each file what it was made by, with what options it is imported into a
model of 4 blocks, and where each of its vectors belongs, as its library counts;
`expected.safetensors` has the values, and under `residuals|FILE` what the library itself made of
the tiny model's stream with that file's vector, for those that can steer. A library that is not
installed is left out, and its files stay as they are; so do those of all that are not named on the
command line, if any are.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from gguf import GGUFWriter
from safetensors.torch import load_file, save_file

from tests.support.vectors.tiny import HIDDEN, LAYERS, residuals, tiny_model
from tests.vectors.formats.make_fixtures import FIXTURES, PROMPT, STRENGTH, WORDS, _tokenizer

HERE = Path(__file__).parent
MANIFEST: dict[str, dict[str, Any]] = {}
EXPECTED: dict[str, torch.Tensor] = {}


def main() -> None:
    if (HERE / "manifest.json").exists():
        MANIFEST.update(json.loads((HERE / "manifest.json").read_text()))
        EXPECTED.update(load_file(HERE / "expected.safetensors"))
    for work in (_gguf, _glp, _numpy, _torch, _repeng, _dialz, _steering_vectors,
                 _transformer_lens, _sae_lens):  # fmt: skip
        if sys.argv[1:] and work.__name__.removeprefix("_") not in sys.argv[1:]:
            continue
        try:
            work()
        except ImportError as error:
            print(f"{work.__name__}: left out ({error})", file=sys.stderr)
    (HERE / "manifest.json").write_text(json.dumps(MANIFEST, indent=1, sort_keys=True) + "\n")
    save_file(
        {k: t.contiguous().clone() for k, t in EXPECTED.items()}, HERE / "expected.safetensors"
    )


def values(seed: int) -> torch.Tensor:
    """Random float32 [HIDDEN]."""
    return torch.randn(HIDDEN, generator=torch.Generator().manual_seed(seed))


def made(
    name: str, by: str, places: dict[str, Any] | None = None, *, refused: str | None = None,
    coefficient: float = 1.0, **options: Any
) -> Path:  # fmt: skip
    """Note what `name` is; returns where to write it. `places` are values by tensor name."""
    MANIFEST[name] = {"by": by, "options": options, "coefficient": coefficient, "refused": refused}
    MANIFEST[name]["places"] = sorted(places or {})
    for place, value in (places or {}).items():
        EXPECTED[f"{name}|{place}"] = torch.as_tensor(np.asarray(value)).float()
    return HERE / name


def moved(name: str, model: Any) -> None:
    """Record the stream as the library steers it."""
    EXPECTED[f"residuals|{name}"] = residuals(model, PROMPT)
    MANIFEST[name]["steered"] = True


def write_gguf(path: Path, tensors: dict[str, Any], **metadata: Any) -> None:
    writer = GGUFWriter(path, "controlvector")
    for key, value in metadata.items():
        key = key.replace("__", ".")
        add: Callable[..., None] = writer.add_string
        if isinstance(value, bool):
            add = writer.add_bool
        elif isinstance(value, int):
            add = writer.add_uint32
        elif isinstance(value, float):
            add = writer.add_float32
        add(key, value)
    for name, tensor in tensors.items():
        writer.add_tensor(name, np.asarray(tensor))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _gguf() -> None:
    v = {n: values(100 + n) for n in range(6)}
    layers = {n: v[n] for n in (1, 2, 3)}
    named = {f"direction.{n}": t for n, t in layers.items()}
    posts = {f"resid_post.{n}": t for n, t in layers.items()}
    write_gguf(made("gguf-plain.gguf", "gguf", posts), named)
    write_gguf(made("gguf-method.gguf", "gguf", posts), named, controlvector__method="pca",
               controlvector__layer_count=30)  # fmt: skip
    beyond = named | {"direction.4": v[4]}
    write_gguf(made("gguf-past-last.gguf", "gguf", posts), beyond)
    zero = {f"direction.{n}": v[n] for n in (0, 1, 2)}
    write_gguf(
        made("gguf-from-zero.gguf", "gguf", {f"resid_post.{n}": v[n] for n in (0, 1, 2)}), zero
    )
    half = {f"direction.{n}": t.numpy().astype(np.float16) for n, t in layers.items()}
    write_gguf(
        made("gguf-f16.gguf", "gguf", {f"resid_post.{n}": t.half() for n, t in layers.items()}),
        half,
    )


def _glp() -> None:
    v = {n: values(200 + n) / values(200 + n).norm() for n in (1, 2)}
    named = {f"direction.{n}": t for n, t in v.items()}
    hooks = {
        "residual_stream_post_layer": "resid_post", "ffn_out_pre_residual": "mlp_out",
        "attn_out_pre_residual": "attn_out",
    }  # fmt: skip
    for hook, site in hooks.items():
        places = {f"{site}.{n}": t for n, t in v.items()}
        keys: dict[str, Any] = {"glp__mode": "add", "glp__spec_version": 1, "glp__hook_point": hook,
                                "glp__alpha_default": 4.0, "glp__derived_at": hook}  # fmt: skip
        write_gguf(made(f"glp-{site}.gguf", "gguf", places, coefficient=4.0), named, **keys)
        text = {key.replace("__", "."): str(value) for key, value in keys.items()}
        save_file(
            named, made(f"glp-{site}.safetensors", "safetensors", places, coefficient=4.0), text
        )
    places = {f"resid_post.{n}": t for n, t in v.items()}
    write_gguf(made("glp-project.gguf", "gguf", places), named, glp__mode="project",
               glp__hook_point="residual_stream_post_layer")  # fmt: skip
    MANIFEST["glp-project.gguf"]["operation"] = "project"
    basis = torch.linalg.qr(torch.stack([values(7), values(8)]).T)[0].T.contiguous()
    write_gguf(
        made("glp-rank-2.gguf", "gguf", {"resid_post.2": 2 * basis[0] + 0.5 * 2 * basis[1]}),
        {"direction.2": basis[0], "direction.2.1": basis[1].contiguous()},
        glp__mode="add", glp__spec_version=2, glp__rank=2, glp__orthonormal=True,
        glp__dir_scales="1.0,0.5", glp__layer_scales="2:2",
    )  # fmt: skip


def _numpy() -> None:
    stack = torch.stack([values(300 + n) for n in range(LAYERS)])
    posts = {f"resid_post.{n}": t for n, t in enumerate(stack)}
    np.save(made("numpy-one.npy", "numpy", {"resid_post.2": stack[2]}, layer=2), stack[2].numpy())
    np.save(made("numpy-layers.npy", "numpy", posts), stack.numpy())
    halves = stack.half()
    np.save(
        made("numpy-f16.npy", "numpy", {f"resid_post.{n}": t for n, t in enumerate(halves)}),
        halves.numpy(),
    )
    np.savez(
        made("numpy-keys.npz", "numpy", {"resid_post.1": stack[1], "resid_post.3": stack[3]}),
        layer_1=stack[1].numpy(), layer_3=stack[3].numpy(),
    )  # fmt: skip
    np.savez_compressed(made("numpy-packed.npz", "numpy", posts), stack.numpy())


def _torch() -> None:
    stack = torch.stack([values(400 + n) for n in range(LAYERS)])
    posts = {f"resid_post.{n}": t for n, t in enumerate(stack)}
    torch.save(stack, made("torch-layers.pt", "torch", posts))
    torch.save(list(stack), made("torch-list.pth", "torch", posts))
    torch.save({n: t.clone() for n, t in enumerate(stack)}, made("torch-dict.pt", "torch", posts))
    hidden = torch.cat([values(499)[None], stack])
    torch.save(hidden, made("torch-hidden-states.pt", "torch", posts))
    torch.save(
        stack[1].bfloat16().clone(),
        made("torch-one.pth", "torch", {"resid_post.1": stack[1].bfloat16().float()}, layer=1),
    )


def _repeng() -> None:
    vars(np)["float_"] = np.float64  # repeng 0.4.0 names it in two annotations; NumPy 2 dropped it.
    from repeng import ControlVector
    from repeng.control import ControlModel
    from repeng.extract import DatasetEntry

    pairs = [DatasetEntry(f"{a} {b}", f"{b} {a}") for a, b in zip(WORDS, WORDS[3:], strict=False)]
    model = tiny_model(weights=FIXTURES / "tiny_model.safetensors")
    trained = {
        method: ControlVector.train(model, _tokenizer(), pairs, batch_size=4, method=method)
        for method in ("pca_diff", "pca_center")
    }
    first, second = trained["pca_diff"], trained["pca_center"]
    vectors = {
        "repeng-diff": first, "repeng-center": second, "repeng-sum": first + second,
        "repeng-negated": -first, "repeng-scaled": first * 0.5,
        "repeng-two": ControlVector("llama", {n: first.directions[n] for n in (1, 3)}),
    }  # fmt: skip
    for name, vector in vectors.items():
        places = {f"resid_post.{n}": d for n, d in vector.directions.items()}
        vector.export_gguf(made(f"{name}.gguf", "repeng 0.4.0", places))
        controlled = ControlModel(model, list(vector.directions))
        controlled.set_control(vector, STRENGTH)
        moved(f"{name}.gguf", model)
        controlled.unwrap()


def _dialz() -> None:
    sys.modules.setdefault("IPython", ModuleType("IPython"))  # dialz's pictures; not used here.
    display = sys.modules.setdefault("IPython.display", ModuleType("IPython.display"))
    vars(display).setdefault("HTML", str)
    from dialz import vector as dialz

    for name, layers in {"dialz-all": (1, 2, 3), "dialz-two": (1, 3)}.items():
        directions = {n: values(500 + n).numpy() for n in layers}
        places = {f"resid_post.{n}": d for n, d in directions.items()}
        vector = dialz.SteeringVector(model_type="llama", directions=directions)
        vector.export_gguf(made(f"{name}.gguf", "dialz 1.1.4", places))
        model = tiny_model(weights=FIXTURES / "tiny_model.safetensors")
        for n, direction in directions.items():
            module = dialz.SteeringModule(model.model.layers[n])
            module.set_control(dialz.BlockControlParams(torch.tensor(STRENGTH * direction)))
            model.model.layers[n] = module
        moved(f"{name}.gguf", model)


def _steering_vectors() -> None:
    from steering_vectors import SteeringVector

    model = tiny_model(weights=FIXTURES / "tiny_model.safetensors")
    for name, layers in {
        "steering-vectors-all": range(LAYERS),
        "steering-vectors-two": (0, 2),
    }.items():
        vector = SteeringVector({n: values(600 + n) for n in layers})
        places = {f"resid_post.{n}": t for n, t in vector.layer_activations.items()}
        torch.save(vector.layer_activations, made(f"{name}.pt", "steering-vectors 0.12.2", places))
        with vector.apply(model, multiplier=STRENGTH):
            moved(f"{name}.pt", model)
    torch.save(
        vector, made("steering-vectors-object.pt", "steering-vectors 0.12.2", refused="file")
    )


def _transformer_lens() -> None:
    from transformer_lens import utils

    kinds = {"resid_pre": "resid_post", "resid_post": "resid_post", "attn_out": "attn_out",
             "mlp_out": "mlp_out", "resid_mid": "resid_mid"}  # fmt: skip
    for kind, site in kinds.items():
        layer = 1 if kind == "resid_pre" else 2
        value = values(700 + len(kind))
        name = utils.get_act_name(kind, 2)
        save_file(
            {name: value},
            made(f"lens-{kind}.safetensors", "transformer_lens", {f"{site}.{layer}": value}),
        )
    names = {utils.get_act_name("resid_pre", n): values(710 + n) for n in (1, 2, 3)}
    places = {f"resid_post.{n - 1}": values(710 + n) for n in (1, 2, 3)}
    torch.save(names, made("lens-dict.pt", "transformer_lens", places))
    arrays: dict[str, Any] = {n: t.numpy() for n, t in names.items()}
    np.savez(made("lens-keys.npz", "transformer_lens", places), **arrays)


def _sae_lens() -> None:
    from sae_lens import JumpReLUSAE, JumpReLUSAEConfig, StandardSAE, StandardSAEConfig, __version__

    by = f"SAELens {__version__}"
    kinds = {"standard": (StandardSAE, StandardSAEConfig),
             "jumprelu": (JumpReLUSAE, JumpReLUSAEConfig)}  # fmt: skip
    for name, (kind, config_of) in kinds.items():
        torch.manual_seed(0)
        config = config_of(d_in=HIDDEN, d_sae=4)
        config.metadata.hook_name = f"blocks.2.hook_resid_{'pre' if name == 'standard' else 'post'}"
        sae = kind(config)
        # A whole autoencoder, as `save_model` leaves its folder.
        sae.save_model(made(f"sae-lens-{name}", by, refused="W_dec"))
        place = "resid_post.1" if name == "standard" else "resid_post.2"
        for feature in range(2):
            row = sae.W_dec[feature].detach().clone()
            save_file(
                {config.metadata.hook_name: row},
                made(f"sae-lens-{name}-{feature}.safetensors", by, {place: row}),
            )


if __name__ == "__main__":
    main()
