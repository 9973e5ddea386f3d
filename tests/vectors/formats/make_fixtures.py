"""Make the fixture files. Run it with the libraries that own the formats; the tests need none.

    python -m venv V && V/bin/pip install --no-deps repeng==0.4.0 dialz==1.1.4 scikit-learn ...
    V/bin/python -m tests.vectors.formats.make_fixtures

repeng and dialz are run: they train on a tiny random model, write their files with their own
`export_gguf`, and steer the model with their own modules; the residual stream that this gave is
recorded beside (`expected.safetensors`). The gguf package writes what llama.cpp's cvector-generator
(tools/cvector-generator/cvector-generator.cpp, `export_gguf`) would. The other libraries are not on
PyPI; their files are written as their source does, in the lines cited below.
"""

import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from safetensors.torch import save_file

FIXTURES = Path(__file__).parent / "fixtures"
PROMPT = [[3, 7, 1, 9, 12, 5]]
WORDS = ["joy", "grief", "sun", "rain", "up", "down", "yes", "no", "fine", "ill", "calm", "cross"]
STRENGTH = 1.5


def main() -> None:
    from tests.support.vectors.tiny import residuals, tiny_model

    vars(np)["float_"] = np.float64  # repeng 0.4.0 names it in two annotations; NumPy 2 dropped it.
    sys.modules.setdefault("IPython", ModuleType("IPython"))  # dialz's pictures; not used here.
    display = sys.modules.setdefault("IPython.display", ModuleType("IPython.display"))
    vars(display).setdefault("HTML", str)
    import repeng
    from dialz import vector as dialz
    from repeng.control import ControlModel
    from repeng.extract import DatasetEntry

    FIXTURES.mkdir(exist_ok=True)
    model = tiny_model(seed=0)
    save_file(
        {name: tensor.clone() for name, tensor in model.state_dict().items()},
        FIXTURES / "tiny_model.safetensors",
    )
    expected = {"plain": residuals(model, PROMPT)}

    pairs = [DatasetEntry(f"{a} {b}", f"{b} {a}") for a, b in zip(WORDS, WORDS[3:], strict=False)]
    trained = repeng.ControlVector.train(model, _tokenizer(), pairs, batch_size=4)
    trained.export_gguf(FIXTURES / "repeng.gguf")
    controlled = ControlModel(model, list(trained.directions))
    controlled.set_control(trained, STRENGTH)
    expected["repeng"] = residuals(model, PROMPT)
    controlled.unwrap()

    # dialz's SteeringModel downloads its model by name; the module it puts around a block does not.
    directions = {n: d[::-1].copy() for n, d in trained.directions.items() if n != 2}
    vector = dialz.SteeringVector(model_type="llama", directions=directions)
    vector.export_gguf(FIXTURES / "dialz.gguf")
    blocks = list(model.model.layers)
    for number, direction in directions.items():
        module = dialz.SteeringModule(blocks[number])
        module.set_control(dialz.BlockControlParams(torch.tensor(STRENGTH * direction)))
        model.model.layers[number] = module
    expected["dialz"] = residuals(model, PROMPT)
    save_file(expected, FIXTURES / "expected.safetensors")

    _cvector_generator(FIXTURES / "cvector-generator.gguf")
    _written_as_the_source_does()


def _cvector_generator(path: Path) -> None:
    from gguf import GGUFWriter

    writer = GGUFWriter(path, "controlvector")
    writer.add_string("controlvector.model_hint", "llama")
    writer.add_int32("controlvector.layer_count", 3)  # gguf_set_val_i32, v_ctrl.size()
    for number in (1, 2, 3):  # "direction.%zu", il + 1
        writer.add_tensor(f"direction.{number}", _values(number, torch.float32).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _written_as_the_source_does() -> None:
    # IBM/activation-steering, activation_steering/steering_vector.py, SteeringVector.save
    directions = {n: _values(10 + n, torch.float32).numpy() for n in range(4)}
    data = {
        "model_type": "llama",
        "directions": {n: d.tolist() for n, d in directions.items()},
        "explained_variances": {n: 0.5 + n / 16 for n in directions},
    }
    with open(FIXTURES / "activation-steering.svec", "w") as file:
        json.dump(data, file)
    # nrimsky/CAA, generate_vectors.py and behaviors.get_vector_path; Llama-2 runs in float16.
    folder = FIXTURES / "caa"
    folder.mkdir(exist_ok=True)
    for n in (1, 2, 3):
        torch.save(_values(20 + n, torch.float16), folder / f"vec_layer_{n}_Llama-2-7b-chat-hf.pt")
    torch.save(_values(29, torch.float16), folder / "vec_layer_2_Llama-2-13b-chat-hf.pt")
    # zjunlp/EasyEdit, steer/vector_generators/caa/generate_caa_vectors.py
    folder = FIXTURES / "easyedit"
    folder.mkdir(exist_ok=True)
    for n in (0, 2):
        torch.save(_values(30 + n, torch.bfloat16), folder / f"layer_{n}.pt")
    # andyrdt/refusal_direction, pipeline/run_pipeline.py, select_and_save_direction; the means are
    # kept in float64 (generate_directions.py).
    folder = FIXTURES / "refusal"
    folder.mkdir(exist_ok=True)
    torch.save(_values(40, torch.float64), folder / "direction.pt")
    with open(folder / "direction_metadata.json", "w") as file:
        json.dump({"pos": -2, "layer": 2}, file, indent=4)


def _values(seed: int, dtype: torch.dtype) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(8, generator=generator, dtype=torch.float64).to(dtype)


def _tokenizer() -> object:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({w: n + 2 for n, w in enumerate(WORDS)}, unk_token="joy"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="joy")


if __name__ == "__main__":
    main()
