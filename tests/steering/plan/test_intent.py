"""Which keys mean steering."""

import pytest

from steersman.steering.plan.intent import means_steering


@pytest.mark.parametrize(
    "key",
    ["steering", "Steering", "STEERING", "steer", "steer_vectors", "steering-vector",
     "steeringVec", "x_steering", "vllm_steering", "activation_steering_vectors", "control_vector",
     "controlVector", "cvec_control_vector", "sv", "sv_id", "SV-scale", "steersman", " steering",
     "steering\x00",
     "stееring", "s t e e r i n g", "ｓｔｅｅｒｉｎｇ", "st\u00adeering"],
)  # fmt: skip
def test_keys_that_mean_it(key: str) -> None:
    assert means_steering(key)
    assert means_steering(key, near=True)


@pytest.mark.parametrize(
    "key",
    ["stering", "sterring", "stearing", "steeing", "seering", "stteering", "tseering",
     "streeing", "contol_vector", "oversteer", "cvec", "vectors"],
)  # fmt: skip
def test_wrong_letters_count_where_the_field_may_be(key: str) -> None:
    assert means_steering(key, near=True)
    assert not means_steering(key)


@pytest.mark.parametrize(
    "key",
    ["", "model", "messages", "stream", "stream_options", "string", "strings", "stop", "seed",
     "service_tier", "storing", "scoring", "starting", "training", "store", "user", "sv" * 40,
     "vector_store_ids", "metering", "peering", "stirring", "engineering", "filtering", "svg",
     "svc_name", "x" * 10_000],
)  # fmt: skip
def test_other_words(key: str) -> None:
    assert not means_steering(key, near=True)


def test_no_field_of_the_routes_means_it_but_ours() -> None:
    from vllm.entrypoints.anthropic.protocol import AnthropicMessagesRequest

    from steersman.server.chat import requests

    for kind in (
        requests.SteeredChatRequest,
        requests.SteeredCompletionRequest,
        requests.SteeredResponsesRequest,
        requests.SteeredBatchRequest,
        AnthropicMessagesRequest,
    ):
        found = {name for name in kind.model_fields if means_steering(name, near=True)}
        assert found <= {"steering"}, kind
