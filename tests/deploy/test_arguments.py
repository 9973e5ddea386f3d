"""The arguments in the manifests, read by the parsers of the server itself."""

import argparse
from typing import Any

import pytest

from steersman.client.launch.options import own_parser
from steersman.client.launch.vllm_arguments import workers_here
from tests.deploy.rendered import RENDERINGS, workloads

SERVERS = [
    (f"{name}: {pod.name}", pod, container, args)
    for name in RENDERINGS
    for pod in workloads(name)
    for container, args in pod.servers
]
EACH = pytest.mark.parametrize(
    ("pod", "container", "args"), [rest for _, *rest in SERVERS], ids=[i for i, *_ in SERVERS]
)


@pytest.fixture(scope="module")
def parser() -> Any:
    """vLLM's, as `vllm serve` has it."""
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    return make_arg_parser(FlexibleArgumentParser(exit_on_error=False))


def parse(parser: Any, args: list[str]) -> tuple[argparse.Namespace, argparse.Namespace]:
    """Ours and vLLM's. Raises for what neither knows, and for abbreviations, which vLLM takes."""
    from vllm.entrypoints.launchers.cli_args import validate_parsed_serve_args

    assert args[0] == "serve"
    own = own_parser()
    known = {name for p in (own, parser) for action in p._actions for name in action.option_strings}
    assert {arg.partition("=")[0] for arg in args if arg.startswith("-")} <= known
    ours, rest = own.parse_known_args(args[1:])
    theirs = parser.parse_args(rest)
    validate_parsed_serve_args(theirs)
    return ours, theirs


@EACH
def test_both_parsers_take_them(pod: Any, container: Any, args: list[str], parser: Any) -> None:
    ours, theirs = parse(parser, args)
    mounts = {m["mountPath"] for m in container["volumeMounts"]}
    assert ours.library in mounts
    assert ours.demo == (theirs.model_tag is None)
    if not ours.demo:
        assert theirs.model_tag.startswith("/models/")
        assert "/models" in mounts
    if not theirs.headless:
        assert theirs.host == "0.0.0.0"
        assert ours.api_keys_file.rpartition("/")[0] in mounts


@EACH
def test_gpus_and_ranks_agree(pod: Any, container: Any, args: list[str], parser: Any) -> None:
    """As many workers on a host as it has GPUs for the container."""
    _, theirs = parse(parser, args)
    gpus = container.get("resources", {}).get("limits", {}).get("nvidia.com/gpu")
    if gpus is not None:
        assert workers_here(theirs) == int(gpus)


@pytest.mark.parametrize("wrong", ["--no-such-option", "--nodes=2", "--headles", "-x"])
def test_an_unknown_option_is_found(parser: Any, wrong: str) -> None:
    _, _, _, args = SERVERS[0]
    with pytest.raises(AssertionError):
        parse(parser, [*args, wrong])


def test_the_group_is_of_one_mind(parser: Any) -> None:
    """Leader and worker differ in who they are and in what only an API server has."""
    parsed = {}
    for pod in workloads("overlays/gpu-multi-node"):
        [(_, args)] = pod.servers
        _, theirs = parse(parser, args)
        parsed[pod.name.split()[-1]] = vars(theirs)
    leader, worker = parsed["leaderTemplate"], parsed["workerTemplate"]
    differing = {key for key in leader if leader[key] != worker[key]}
    assert differing == {"headless", "host"}
    assert worker["headless"] is True
    # A stage of the pipeline on each host.
    assert leader["nnodes"] == leader["pipeline_parallel_size"] == 2
